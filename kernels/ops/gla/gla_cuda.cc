#include "kernels/cores/recurrent_operator_cuda.h"

namespace attnd {
namespace {

absl::Status Run(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  cuda::RecurrentCall core = cuda::RecurrentCallOf(call, outputs);
  core.g = call.input("g");
  core.decay = cuda::DecayOf(core.g);
  core.value_decay = call.input("g_v");
  return cuda::Recurrent(backend, core);
}

bool Supports(const BoundCall& call) {
  return cuda::FitsRecurrent({.key_size = call.dim("K"),
                              .decay = cuda::DecayOf(call.input("g")),
                              .value_decay = call.has("g_v")});
}

}  // namespace

void RegisterGlaCuda(Registry& registry);

void RegisterGlaCuda(Registry& registry) {
  registry.AddKernel("gla", {"chunk_cuda", Device::kCuda, Supports, Run});
}

}  // namespace attnd
