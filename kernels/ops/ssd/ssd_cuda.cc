#include "kernels/core/registry.h"
#include "kernels/cores/recurrent_cuda.h"
#include "kernels/ops/ssd/ssd_steps.h"

namespace attnd {
namespace {

absl::Status Run(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  Composer c(backend, call, outputs);
  const SsdSteps steps = SsdStepsOf(c);
  const Array x = c.In("x");
  const Array v = x * steps.dt.Unsqueeze(-1);
  const bool reads_out = call.has("d") || call.has("z");
  const Array y = reads_out ? c.Empty(x.tensor().shape()) : Array();
  if (!c.status().ok()) return c.status();
  cuda::RecurrentCall core;
  core.q = call.input("c");
  core.k = call.input("b");
  core.v = v.tensor();
  core.o = reads_out ? y.tensor() : *outputs.Find("o");
  core.sequences = call.sequences();
  core.decay = Decay::kScalar;
  core.g = steps.log_decay.tensor();
  core.initial_state = call.input("initial_state");
  core.final_state = *outputs.Find("final_state");
  if (absl::Status s = cuda::Recurrent(backend, core); !s.ok()) return s;
  if (reads_out) c.Out("o", SsdReadout(c, y, x));
  return c.status();
}

}  // namespace

void RegisterSsdCuda(Registry& registry);

void RegisterSsdCuda(Registry& registry) {
  registry.AddKernel("ssd", {"chunk_cuda", Device::kCuda,
                             [](const BoundCall& call) {
                               return cuda::FitsRecurrent({call.dim("N"), Decay::kScalar});
                             },
                             Run});
}

}  // namespace attnd
