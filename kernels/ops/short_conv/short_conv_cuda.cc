#include "kernels/cores/short_conv_cuda.h"

#include "kernels/core/registry.h"

namespace attnd {
namespace {

absl::Status Run(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  return cuda::ShortConv(backend, {.x = call.input("x"),
                                   .weight = call.input("weight"),
                                   .bias = call.input("bias"),
                                   .residual = call.input("residual"),
                                   .initial_state = call.input("initial_state"),
                                   .o = *outputs.Find("o"),
                                   .final_state = *outputs.Find("final_state"),
                                   .silu = call.choice("activation") == "silu",
                                   .sequences = call.sequences()});
}

}  // namespace

void RegisterShortConvCuda(Registry& registry);

void RegisterShortConvCuda(Registry& registry) {
  registry.AddKernel("short_conv",
                     {"direct_cuda", Device::kCuda, [](const BoundCall&) { return true; }, Run});
}

}  // namespace attnd
