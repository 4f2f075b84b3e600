#include "kernels/cores/forget_gate.h"
#include "kernels/cores/recurrent_operator_cuda.h"

namespace attnd {
namespace {

absl::Status Run(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  Composer c(backend, call, outputs);
  const Array q = c.flag("q_silu") ? Silu(c.In("q")) : Array();
  const ForgetGate gate = ForgetGateOf(c.In("f"), c.In("lower_bound"));
  if (!c.status().ok()) return c.status();
  cuda::RecurrentCall core = cuda::RecurrentCallOf(call, outputs);
  if (q.defined()) core.q = q.tensor();
  core.k = gate.key.tensor();
  core.g = gate.log_decay.tensor();
  core.decay = Decay::kVector;
  return cuda::Recurrent(backend, core);
}

}  // namespace

void RegisterHgrn2Cuda(Registry& registry);

void RegisterHgrn2Cuda(Registry& registry) {
  registry.AddKernel("hgrn2", {"chunk_cuda", Device::kCuda,
                               [](const BoundCall& call) {
                                 return cuda::FitsRecurrent({call.dim("K"), Decay::kVector});
                               },
                               Run});
}

}  // namespace attnd
