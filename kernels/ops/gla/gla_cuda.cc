#include "kernels/cores/recurrent_operator_cuda.h"
#include "kernels/cores/recurrent_sm90.h"

namespace attnd {
namespace {

cuda::RecurrentCall CoreCall(const BoundCall& call, const NamedTensors& outputs) {
  cuda::RecurrentCall core = cuda::RecurrentCallOf(call, outputs);
  core.g = call.input("g");
  core.decay = cuda::DecayOf(core.g);
  core.value_decay = call.input("g_v");
  return core;
}

absl::Status Run(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  return cuda::Recurrent(backend, CoreCall(call, outputs));
}

absl::Status RunSm90(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  return cuda::RecurrentSm90(backend, CoreCall(call, outputs));
}

bool Supports(const BoundCall& call) {
  return cuda::FitsRecurrent({.key_size = call.dim("K"),
                              .decay = cuda::DecayOf(call.input("g")),
                              .value_decay = call.has("g_v")});
}

bool SupportsSm90(const BoundCall& call) { return !call.has("g_v") && call.input("g").rank() == 3; }

}  // namespace

void RegisterGlaCuda(Registry& registry);

void RegisterGlaCuda(Registry& registry) {
  cuda::AddRecurrentSm90(registry, "gla", SupportsSm90, RunSm90);
  registry.AddKernel("gla", {"chunk_cuda", Device::kCuda, Supports, Run});
}

}  // namespace attnd
