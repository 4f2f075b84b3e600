#include "kernels/cores/recurrent_operator_cuda.h"
#include "kernels/cores/recurrent_sm90.h"
#include "kernels/ops/lightning_attention/lightning_decay.h"
#include "kernels/primitives/composer.h"

namespace attnd {
namespace {

template <absl::Status (*kRecurrent)(Backend&, const cuda::RecurrentCall&)>
absl::Status Run(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  Composer c(backend, call, outputs);
  const Array g = c.has("g") ? c.In("g") : c.FromHost(LightningDecays(call));
  if (!c.status().ok()) return c.status();
  cuda::RecurrentCall core = cuda::RecurrentCallOf(call, outputs);
  core.decay = Decay::kHead;
  core.g = g.tensor();
  return kRecurrent(backend, core);
}

}  // namespace

void RegisterLightningAttentionCuda(Registry& registry);

void RegisterLightningAttentionCuda(Registry& registry) {
  cuda::AddRecurrentSm90(
      registry, "lightning_attention", [](const BoundCall&) { return true; },
      Run<cuda::RecurrentSm90>);
  registry.AddKernel("lightning_attention",
                     {"chunk_cuda", Device::kCuda,
                      [](const BoundCall& call) {
                        return cuda::FitsRecurrent({call.dim("K"), Decay::kHead});
                      },
                      Run<cuda::Recurrent>});
}

}  // namespace attnd
