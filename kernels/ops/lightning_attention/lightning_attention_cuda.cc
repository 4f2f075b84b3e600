#include "kernels/cores/recurrent_operator_cuda.h"
#include "kernels/ops/lightning_attention/lightning_decay.h"
#include "kernels/primitives/composer.h"

namespace attnd {
namespace {

absl::Status Run(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  Composer c(backend, call, outputs);
  const Array g = c.has("g") ? c.In("g") : c.FromHost(LightningDecays(call));
  if (!c.status().ok()) return c.status();
  cuda::RecurrentCall core = cuda::RecurrentCallOf(call, outputs);
  core.decay = Decay::kHead;
  core.g = g.tensor();
  return cuda::Recurrent(backend, core);
}

}  // namespace

void RegisterLightningAttentionCuda(Registry& registry);

void RegisterLightningAttentionCuda(Registry& registry) {
  registry.AddKernel("lightning_attention",
                     {"chunk_cuda", Device::kCuda,
                      [](const BoundCall& call) {
                        return cuda::FitsRecurrent({call.dim("K"), Decay::kHead});
                      },
                      Run});
}

}  // namespace attnd
