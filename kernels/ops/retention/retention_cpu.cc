#include <algorithm>
#include <cmath>

#include "kernels/core/registry.h"
#include "kernels/cores/linear_recurrent.h"
#include "kernels/cores/rope.h"
#include "kernels/cores/slopes.h"
#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"

namespace attnd {
namespace {

// n after `tokens` steps of n <- lam n + 1: lam^tokens n + (lam^tokens - 1)/(lam - 1), through
// expm1 so that decays near 1 keep their digits.
double DecaySum(double g, double initial, int64_t tokens) {
  if (tokens == 0) return initial;  // 0 times a decay of -inf has no value.
  const auto count = static_cast<double>(tokens);
  const double sum = g == 0 ? count : std::expm1(g * count) / std::expm1(g);
  return (initial != 0 ? std::exp(g * count) * initial : 0) + sum;
}

float StateValue(const Tensor& state, int64_t index) {
  return state.defined() ? state.data<float>()[index] : 0.0f;
}

absl::Status Run(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  const int64_t HO = call.dim("HO"), K = call.dim("K");
  cpu::LinearRecurrentCall core = cpu::RecurrentCallOf(call, outputs);
  core.decay = Decay::kHead;
  core.g = call.input("g");
  if (!core.g.defined()) {
    absl::StatusOr<Tensor> g = backend.Allocate(DType::kFloat32, {HO});
    if (!g.ok()) return g.status();
    backend.Copy(HostTensor<double>({HO}, RetentionDecays(HO)), *g);
    core.g = *std::move(g);
  }
  if (call.choice("normalize") == "row") {
    core.initial_z = call.input("initial_state_z");
    core.final_z = *outputs.Find("final_state_z");
  }

  const Tensor& positions = call.input("initial_state_pos");
  std::vector<double> frequencies;
  if (call.choice("rotary") != "none") {
    const RopePairs pairs =
        call.choice("rotary") == "half" ? RopePairs::kHalf : RopePairs::kInterleaved;
    frequencies = RopeFrequencies(pairs, K, call.real("rotary_base"));
    core.turn = [&positions, &frequencies, pairs, K](const Sequence& sequence, int64_t begin,
                                                     int64_t count, float* features) {
      cpu::Scratch scratch;
      float* cos = scratch.Take<float>(K / 2);
      float* sin = scratch.Take<float>(K / 2);
      const int64_t seen = positions.defined() ? positions.data<int64_t>()[sequence.state] : 0;
      for (int64_t r = 0; r < count; ++r) {
        cpu::RopeRow(frequencies, static_cast<double>(seen + begin + r), cos, sin);
        cpu::RotateRow(pairs, cos, sin, K, features + r * K);
      }
    };
    const Tensor& after = *outputs.Find("final_state_pos");
    for (const Sequence& sequence : call.sequences()) {
      const int64_t seen = positions.defined() ? positions.data<int64_t>()[sequence.state] : 0;
      after.data<int64_t>()[sequence.state] = seen + sequence.length;
    }
  }

  const Tensor& initial_n = call.input("initial_state_n");
  if (call.choice("normalize") != "none") {
    core.readout = [&core, &initial_n, HO](const cpu::RecurrentReadout& readout) {
      const double g = core.g.data<float>()[readout.head];
      const double n0 = StateValue(initial_n, readout.sequence.state * HO + readout.head);
      for (int64_t r = 0; r < readout.count; ++r) {
        const double root = std::sqrt(DecaySum(g, n0, readout.begin + r + 1));
        // NaN stays NaN, unlike in fmax.
        const double row =
            readout.dots != nullptr ? std::max(std::abs(readout.dots[r] / root), 1.0) : 1.0;
        cpu::ScaleRow(readout.y + r * readout.value_size, static_cast<float>(1 / (root * row)),
                      readout.value_size);
      }
    };
    const Tensor& final_n = *outputs.Find("final_state_n");
    for (const Sequence& sequence : call.sequences()) {
      for (int64_t h = 0; h < HO; ++h) {
        const int64_t slot = sequence.state * HO + h;
        final_n.data<float>()[slot] = static_cast<float>(
            DecaySum(core.g.data<float>()[h], StateValue(initial_n, slot), sequence.length));
      }
    }
  }
  return cpu::LinearRecurrent(core);
}

}  // namespace

void RegisterRetentionCpu(Registry& registry);

void RegisterRetentionCpu(Registry& registry) {
  registry.AddKernel("retention", {"chunk_cpu", Device::kCpu,
                                   [](const BoundCall& call) {
                                     return cpu::FitsRecurrentCore(call.dim("K"), call.dim("V"));
                                   },
                                   Run});
}

}  // namespace attnd
