#include "kernels/core/registry.h"
#include "kernels/cores/linear_recurrent.h"
#include "kernels/ops/lightning_attention/lightning_decay.h"

namespace attnd {
namespace {

absl::Status Run(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  cpu::LinearRecurrentCall core = cpu::RecurrentCallOf(call, outputs);
  core.decay = Decay::kHead;
  core.g = call.input("g");
  if (!core.g.defined()) {
    absl::StatusOr<Tensor> g = backend.Allocate(DType::kFloat32, {call.dim("HO")});
    if (!g.ok()) return g.status();
    backend.Copy(LightningDecays(call), *g);
    core.g = *std::move(g);
  }
  return cpu::LinearRecurrent(core);
}

}  // namespace

void RegisterLightningAttentionCpu(Registry& registry);

void RegisterLightningAttentionCpu(Registry& registry) {
  registry.AddKernel(
      "lightning_attention",
      {"chunk_cpu", Device::kCpu,
       [](const BoundCall& call) { return cpu::FitsRecurrentCore(call.dim("K"), call.dim("V")); },
       Run});
}

}  // namespace attnd
