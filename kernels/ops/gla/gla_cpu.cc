#include "kernels/core/registry.h"
#include "kernels/cores/linear_recurrent.h"

namespace attnd {
namespace {

absl::Status Run(Backend&, const BoundCall& call, const NamedTensors& outputs) {
  cpu::LinearRecurrentCall core = cpu::RecurrentCallOf(call, outputs);
  core.g = call.input("g");
  core.decay = core.g.rank() == 4 ? Decay::kVector : Decay::kScalar;
  core.value_decay = call.input("g_v");
  return cpu::LinearRecurrent(core);
}

}  // namespace

void RegisterGlaCpu(Registry& registry);

void RegisterGlaCpu(Registry& registry) {
  registry.AddKernel("gla", {"chunk_cpu", Device::kCpu,
                             [](const BoundCall& call) {
                               return cpu::FitsRecurrentCore(call.dim("K"), call.dim("V"));
                             },
                             Run});
}

}  // namespace attnd
