#include "kernels/core/registry.h"
#include "kernels/cores/short_conv.h"

namespace attnd {
namespace {

absl::Status Run(Backend&, const BoundCall& call, const NamedTensors& outputs) {
  cpu::ShortConv({.x = call.input("x"),
                  .weight = call.input("weight"),
                  .bias = call.input("bias"),
                  .residual = call.input("residual"),
                  .initial_state = call.input("initial_state"),
                  .o = *outputs.Find("o"),
                  .final_state = *outputs.Find("final_state"),
                  .silu = call.choice("activation") == "silu",
                  .sequences = call.sequences()});
  return absl::OkStatus();
}

}  // namespace

void RegisterShortConvCpu(Registry& registry);

void RegisterShortConvCpu(Registry& registry) {
  registry.AddKernel("short_conv",
                     {"tile_cpu", Device::kCpu, [](const BoundCall&) { return true; }, Run});
}

}  // namespace attnd
