#include "kernels/core/registry.h"
#include "kernels/cores/forget_gate.h"
#include "kernels/cores/linear_recurrent.h"

namespace attnd {
namespace {

absl::Status Run(Backend&, const BoundCall& call, const NamedTensors& outputs) {
  cpu::LinearRecurrentCall core = cpu::RecurrentCallOf(call, outputs);
  core.k = call.input("f");
  if (call.flag("q_silu")) core.query_map = FeatureMap::kSilu;
  core.decay = Decay::kVector;
  const Tensor& bounds = call.input("lower_bound");
  core.gate_of_keys = [&bounds, K = call.dim("K")](int64_t head, int64_t count, float* keys,
                                                   float* gates) {
    const float* bound = bounds.defined() ? bounds.data<float>() + head * K : nullptr;
    cpu::ForgetGateRows(bound, count, K, keys, gates);
  };
  return cpu::LinearRecurrent(core);
}

}  // namespace

void RegisterHgrn2Cpu(Registry& registry);

void RegisterHgrn2Cpu(Registry& registry) {
  registry.AddKernel("hgrn2", {"chunk_cpu", Device::kCpu,
                               [](const BoundCall& call) {
                                 return cpu::FitsRecurrentCore(call.dim("K"), call.dim("V"));
                               },
                               Run});
}

}  // namespace attnd
