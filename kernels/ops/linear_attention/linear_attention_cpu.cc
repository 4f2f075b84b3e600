#include <algorithm>

#include "kernels/core/registry.h"
#include "kernels/cores/linear_global.h"
#include "kernels/cores/linear_recurrent.h"
#include "kernels/primitives/cpu/vector_math.h"

namespace attnd {
namespace {

bool Supports(const BoundCall& call) {
  return cpu::FitsRecurrentCore(call.dim("K"), call.dim("V"));
}

absl::Status RunCausal(Backend&, const BoundCall& call, const NamedTensors& outputs) {
  cpu::LinearRecurrentCall core = cpu::RecurrentCallOf(call, outputs);
  core.query_map = core.key_map = FeatureMapFromName(call.choice("feature_map"));
  if (call.flag("normalize")) {
    core.initial_z = call.input("initial_state_z");
    core.final_z = *outputs.Find("final_state_z");
    core.readout = cpu::NormalisedReadout(call.real("eps"));
  }
  return cpu::LinearRecurrent(core);
}

// Batch rows without a key that counts: their outputs are zero, whatever eps.
std::vector<bool> RowsWithoutKeys(const BoundCall& call) {
  const int64_t rows = call.dim("B"), keys = call.dim("S");
  std::vector<bool> empty(static_cast<size_t>(rows), keys == 0);
  const Tensor& mask = call.input("k_mask");
  for (int64_t row = 0; row < rows && mask.defined(); ++row) {
    const bool* at = mask.data<bool>() + row * keys;
    empty[static_cast<size_t>(row)] =
        std::none_of(at, at + keys, [](bool counts) { return counts; });
  }
  return empty;
}

absl::Status RunWhole(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  cpu::LinearGlobalCall core;
  core.q = call.input("q");
  core.k = call.input("k");
  core.v = call.input("v");
  core.o = *outputs.Find("o");
  core.feature_map = FeatureMapFromName(call.choice("feature_map"));
  core.key_mask = call.input("k_mask");
  const auto scale = static_cast<float>(call.real("scale"));
  const auto eps = static_cast<float>(call.real("eps"));
  const std::vector<bool> empty = RowsWithoutKeys(call);
  core.readout = [&, normalize = call.flag("normalize")](const cpu::LinearReadout& readout) {
    for (int64_t r = 0; r < readout.count; ++r) {
      float factor = scale;
      if (normalize) {
        factor /= scale * cpu::DotRow(readout.phi + r * readout.key_size, readout.key_sum,
                                      readout.key_size) +
                  eps;
        if (empty[static_cast<size_t>(readout.row)]) factor = 0;
      }
      cpu::ScaleRow(readout.y + r * readout.value_size, factor, readout.value_size);
    }
  };
  return cpu::LinearGlobal(backend, core);
}

}  // namespace

void RegisterLinearAttentionCpu(Registry& registry);

void RegisterLinearAttentionCpu(Registry& registry) {
  registry.AddKernel(
      "linear_attention",
      {"chunk_cpu", Device::kCpu,
       [](const BoundCall& call) { return call.flag("causal") && Supports(call); }, RunCausal});
  registry.AddKernel("linear_attention", {"global_cpu", Device::kCpu,
                                          [](const BoundCall& call) {
                                            return !call.flag("causal") &&
                                                   cpu::HeadsNest(call.dim("HK"), call.dim("HV")) &&
                                                   Supports(call);
                                          },
                                          RunWhole});
}

}  // namespace attnd
