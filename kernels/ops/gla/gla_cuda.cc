#include "kernels/cores/recurrent_operator_cuda.h"

namespace attnd {
namespace {

absl::Status Run(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  cuda::RecurrentCall core = cuda::RecurrentCallOf(call, outputs);
  core.g = call.input("g");
  core.decay = core.g.rank() == 4 ? Decay::kVector : Decay::kScalar;
  return cuda::Recurrent(backend, core);
}

bool Supports(const BoundCall& call) {
  return !call.has("g_v") && cuda::FitsRecurrent(call.dim("K"), call.input("g").rank() == 4);
}

}  // namespace

void RegisterGlaCuda(Registry& registry);

void RegisterGlaCuda(Registry& registry) {
  registry.AddKernel("gla", {"chunk_cuda", Device::kCuda, Supports, Run});
}

}  // namespace attnd
