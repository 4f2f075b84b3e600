#include "kernels/core/registry.h"
#include "kernels/cores/softmax_cuda.h"
#include "kernels/ops/mla/mla_parts.h"

namespace attnd {
namespace {

absl::Status Run(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  Composer c(backend, call, outputs);
  const MlaParts parts = MlaPartsOf(c);
  const MlaKeys expanded = ExpandMla(c, parts, 0, call.dim("H"));
  c.Out("final_state_c", parts.latent);
  c.Out("final_state_r", parts.rope);
  // The core takes one type.
  const Array q = c.Cast(parts.q, call.dtype());
  const Array k = c.Cast(expanded.k, call.dtype());
  const Array v = c.Cast(expanded.v, call.dtype());
  if (!c.status().ok()) return c.status();
  const std::vector<Sequence> keys = MlaKeySequences(call);
  cuda::SoftmaxCall core;
  core.q = q.tensor();
  core.k = k.tensor();
  core.v = v.tensor();
  core.o = *outputs.Find("o");
  core.queries = call.sequences();
  core.keys = keys;
  core.scale = call.real("scale");
  core.mask.kind = cuda::SoftmaxMask::Kind::kWindow;
  core.mask.window.causal = true;
  core.mask.window.left = cuda::ClampToken(MlaWindowLeft(call));
  return cuda::Softmax(backend, core);
}

bool Supports(const BoundCall& call) {
  return cuda::SoftmaxSupports(call.dtype(), call.dim("D"), call.dim("Dv"));
}

}  // namespace

void RegisterMlaCuda(Registry& registry);

void RegisterMlaCuda(Registry& registry) {
  registry.AddKernel("mla", {"expanded_cuda", Device::kCuda, Supports, Run});
}

}  // namespace attnd
