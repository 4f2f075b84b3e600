#include "kernels/cores/delta_operator.h"

#include "kernels/cores/delta.h"
#include "kernels/cores/gates.h"
#include "kernels/cores/linear_recurrent.h"

namespace attnd::cpu {
namespace {

absl::Status Run(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  Composer c(backend, call, outputs);
  const bool normalises = call.flag("qk_l2norm");
  // Arrays hold what was computed until the core is done with it.
  const Array q = normalises ? QueryOrKey(c, "q") : Array();
  const Array k = normalises ? QueryOrKey(c, "k") : Array();
  const Array g = c.Contiguous(LogDecay(c));
  const Array beta = WriteStrength(c);
  if (!c.status().ok()) return c.status();

  DeltaCall delta;
  delta.q = normalises ? q.tensor() : call.input("q");
  delta.k = normalises ? k.tensor() : call.input("k");
  delta.v = call.input("v");
  delta.o = *outputs.Find("o");
  delta.sequences = call.sequences();
  delta.scale = call.real("scale");
  delta.g = g.tensor();
  delta.decay = !g.defined() ? Decay::kNone : g.rank() == 4 ? Decay::kVector : Decay::kScalar;
  delta.beta = beta.tensor();
  delta.initial_state = call.input("initial_state");
  delta.final_state = *outputs.Find("final_state");
  return DeltaRule(delta);
}

}  // namespace

Kernel DeltaKernel() {
  return {"chunk_cpu", Device::kCpu,
          [](const BoundCall& call) { return FitsRecurrentCore(call.dim("K"), call.dim("V")); },
          Run};
}

}  // namespace attnd::cpu
