// All of the operator but its sums sits in two numbers for each token: the weight of a value
// (competition) and that of an output (allocation times inflow). Both follow from sums of [K]
// vectors; the rest is a linear core.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/core/registry.h"
#include "kernels/cores/linear_global.h"
#include "kernels/cores/linear_recurrent.h"
#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"

namespace attnd {
namespace {

// Sums over tokens are float64: they grow with T while what is read from them is a ratio.
using Sums = std::vector<double>;

// (x + e).(sum + e).
double Dot(const float* x, const Sums& sum, double e) {
  double dot = 0;
  for (size_t i = 0; i < sum.size(); ++i) dot += (x[i] + e) * (sum[i] + e);
  return dot;
}

void Accumulate(double factor, const float* x, Sums& sum) {
  for (size_t i = 0; i < sum.size(); ++i) sum[i] += factor * x[i];
}

// What the two forms share: the call's attributes and its features, one token at a time.
class Flow {
 public:
  explicit Flow(const BoundCall& call)
      : call_(call),
        heads_(call.dim("H")),
        key_size_(call.dim("K")),
        e_(call.real("eps")),
        clamp_(call.real("clamp")) {}

  FeatureMap map() const {
    return call_.choice("feature_map") == "relu" ? FeatureMap::kReluEps : FeatureMap::kSigmoid;
  }

 protected:
  void Feature(const Tensor& x, int64_t row, int64_t token, int64_t head, float* out) const {
    const int64_t at = ((row * x.dim(1) + token) * heads_ + head) * key_size_;
    cpu::LoadRow(x.data<char>() + at * static_cast<int64_t>(SizeOf(x.dtype())), x.dtype(), out,
                 key_size_);
    cpu::ApplyRows(map(), out, 1, key_size_, out);
  }

  double Clip(double source) const {
    return clamp_ > 0 && !std::isnan(source) ? std::clamp(source, -clamp_, clamp_) : source;
  }

  static double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

  // Rough cost of the sums over `tokens` tokens of every head.
  double Work(int64_t tokens) const {
    return 40.0 * static_cast<double>(tokens * heads_ * key_size_);
  }

  const BoundCall& call_;
  const int64_t heads_;
  const int64_t key_size_;
  const double e_;
  const double clamp_;
};

class NormalFlow : public Flow {
 public:
  using Flow::Flow;

  // competition [B,H,S], and allocation times inflow [B,H,T].
  void Weigh(const Tensor& competition, const Tensor& allocation) const {
    const int64_t rows = call_.dim("B");
    cpu::ParallelFor(rows * heads_, Work(rows * (call_.dim("T") + call_.dim("S"))), [&](int64_t i) {
      WeighHead(i / heads_, i % heads_, competition.data<float>() + i * call_.dim("S"),
                allocation.data<float>() + i * call_.dim("T"));
    });
  }

 private:
  void WeighHead(int64_t row, int64_t head, float* competition, float* allocation) const {
    const Tensor &q = call_.input("q"), &k = call_.input("k");
    const int64_t queries = q.dim(1), keys = k.dim(1);
    cpu::Scratch scratch;
    float* x = scratch.Take<float>(key_size_);
    const auto for_each = [&](const Tensor& tokens, auto body) {
      for (int64_t t = 0; t < tokens.dim(1); ++t) {
        Feature(tokens, row, t, head, x);
        body(t);
      }
    };
    const auto size = static_cast<size_t>(key_size_);
    Sums sum_q(size), sum_k(size), sum_qi(size), sum_ko(size);
    for_each(q, [&](int64_t) { Accumulate(1, x, sum_q); });
    for_each(k, [&](int64_t) { Accumulate(1, x, sum_k); });
    for_each(q, [&](int64_t) { Accumulate(1 / Dot(x, sum_k, e_), x, sum_qi); });
    for_each(k, [&](int64_t) { Accumulate(1 / Dot(x, sum_q, e_), x, sum_ko); });
    const double ratio = static_cast<double>(queries) / static_cast<double>(keys);
    for_each(q, [&](int64_t t) {
      allocation[t] = static_cast<float>(Sigmoid(Dot(x, sum_ko, e_) * ratio) / Dot(x, sum_k, e_));
    });
    for_each(k, [&](int64_t s) { competition[s] = static_cast<float>(Clip(Dot(x, sum_qi, e_))); });
    const float most = cpu::MaxRow(competition, keys);
    const float sum = cpu::ExpShiftedRow(competition, most, competition, keys);
    cpu::ScaleRow(competition, static_cast<float>(keys) / sum, keys);
  }
};

class CausalFlow : public Flow {
 public:
  CausalFlow(const BoundCall& call, const NamedTensors& outputs) : Flow(call), outputs_(outputs) {}

  // competition and allocation times inflow, both [B,T,H], and the final sums.
  void Weigh(const Tensor& competition, const Tensor& allocation) const {
    const auto sequences = static_cast<int64_t>(call_.sequences().size());
    cpu::ParallelFor(sequences * heads_, Work(2 * call_.dim("B") * call_.dim("T")), [&](int64_t i) {
      WeighHead(call_.sequences()[static_cast<size_t>(i / heads_)], i % heads_,
                competition.data<float>(), allocation.data<float>());
    });
  }

 private:
  Sums Initial(absl::string_view name, int64_t at, size_t size) const {
    if (!call_.has(name)) return Sums(size);
    const float* state = call_.input(name).data<float>() + at;
    return Sums(state, state + size);
  }

  void Final(absl::string_view name, int64_t at, const Sums& sums) const {
    std::copy(sums.begin(), sums.end(), outputs_.Find(name)->data<float>() + at);
  }

  void WeighHead(const Sequence& sequence, int64_t head, float* competition,
                 float* allocation) const {
    const int64_t tokens = call_.dim("T"), state = sequence.state * heads_ + head;
    const auto size = static_cast<size_t>(key_size_);
    Sums sum_k = Initial("initial_state_k", state * key_size_, size);
    Sums sum_q = Initial("initial_state_q", state * key_size_, size);
    Sums sum_ko = Initial("initial_state_ko", state * key_size_, size);
    Sums sum_qi = Initial("initial_state_qi", state * key_size_, size);
    Sums sum_exp = Initial("initial_state_exp", state, 1);
    const Tensor& seen = call_.input("initial_state_count");
    const int64_t before = seen.defined() ? seen.data<int64_t>()[sequence.state] : 0;
    cpu::Scratch scratch;
    float* a = scratch.Take<float>(key_size_);
    float* b = scratch.Take<float>(key_size_);
    for (int64_t t = 0; t < sequence.length; ++t) {
      Feature(call_.input("q"), sequence.row, sequence.begin + t, head, a);
      Feature(call_.input("k"), sequence.row, sequence.begin + t, head, b);
      const auto n = static_cast<double>(before + t + 1);
      Accumulate(1, b, sum_k);
      Accumulate(1, a, sum_q);
      const double in = n / Dot(a, sum_k, e_);
      const double out = n / Dot(b, sum_q, e_);
      Accumulate(out, b, sum_ko);
      Accumulate(in, a, sum_qi);
      const double strength = std::exp(Clip(Dot(b, sum_qi, e_) / n));
      sum_exp[0] += strength;
      const int64_t at = (sequence.row * tokens + sequence.begin + t) * heads_ + head;
      competition[at] = static_cast<float>(n * strength / sum_exp[0]);
      allocation[at] = static_cast<float>(Sigmoid(Dot(a, sum_ko, e_) / n) * in / n);
    }
    Final("final_state_k", state * key_size_, sum_k);
    Final("final_state_q", state * key_size_, sum_q);
    Final("final_state_ko", state * key_size_, sum_ko);
    Final("final_state_qi", state * key_size_, sum_qi);
    Final("final_state_exp", state, sum_exp);
    if (head == 0) {
      outputs_.Find("final_state_count")->data<int64_t>()[sequence.state] =
          before + sequence.length;
    }
  }

  const NamedTensors& outputs_;
};

absl::Status RunNormal(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  const int64_t rows = call.dim("B"), heads = call.dim("H"), queries = call.dim("T");
  absl::StatusOr<Tensor> competition =
      backend.Allocate(DType::kFloat32, {rows, heads, call.dim("S")});
  if (!competition.ok()) return competition.status();
  absl::StatusOr<Tensor> allocation = backend.Allocate(DType::kFloat32, {rows, heads, queries});
  if (!allocation.ok()) return allocation.status();
  const NormalFlow flow(call);
  flow.Weigh(*competition, *allocation);
  cpu::LinearGlobalCall core;
  core.q = call.input("q");
  core.k = call.input("k");
  core.v = call.input("v");
  core.o = *outputs.Find("o");
  core.feature_map = flow.map();
  core.key_weight = *competition;
  core.readout = [&](const cpu::LinearReadout& read) {
    const float* factors =
        allocation->data<float>() + (read.row * heads + read.head) * queries + read.begin;
    for (int64_t i = 0; i < read.count; ++i) {
      cpu::ScaleRow(read.y + i * read.value_size, factors[i], read.value_size);
    }
  };
  return cpu::LinearGlobal(backend, core);
}

absl::Status RunCausal(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  const int64_t heads = call.dim("H");
  const Dims shape = {call.dim("B"), call.dim("T"), heads};
  absl::StatusOr<Tensor> competition = backend.Allocate(DType::kFloat32, shape);
  if (!competition.ok()) return competition.status();
  absl::StatusOr<Tensor> allocation = backend.Allocate(DType::kFloat32, shape);
  if (!allocation.ok()) return allocation.status();
  const CausalFlow flow(call, outputs);
  flow.Weigh(*competition, *allocation);
  cpu::LinearRecurrentCall core;
  core.q = call.input("q");
  core.k = call.input("k");
  core.v = call.input("v");
  core.o = *outputs.Find("o");
  core.sequences = call.sequences();
  core.query_map = core.key_map = flow.map();
  core.value_weight = *competition;
  core.initial_state = call.input("initial_state");
  core.final_state = *outputs.Find("final_state");
  core.readout = [&](const cpu::RecurrentReadout& read) {
    const Sequence& sequence = read.sequence;
    for (int64_t i = 0; i < read.count; ++i) {
      const int64_t token = sequence.row * call.dim("T") + sequence.begin + read.begin + i;
      cpu::ScaleRow(read.y + i * read.value_size,
                    allocation->data<float>()[token * heads + read.head], read.value_size);
    }
  };
  return cpu::LinearRecurrent(core);
}

}  // namespace

void RegisterFlowAttentionCpu(Registry& registry);

void RegisterFlowAttentionCpu(Registry& registry) {
  registry.AddKernel("flow_attention",
                     {"global_cpu", Device::kCpu,
                      [](const BoundCall& call) { return !call.flag("causal"); }, RunNormal});
  registry.AddKernel("flow_attention", {"chunk_cpu", Device::kCpu,
                                        [](const BoundCall& call) {
                                          return call.flag("causal") &&
                                                 cpu::FitsRecurrentCore(call.dim("K"),
                                                                        call.dim("V"));
                                        },
                                        RunCausal});
}

}  // namespace attnd
