#include "kernels/cores/recurrent_operator_cuda.h"

#include "kernels/cores/gates.h"

namespace attnd::cuda {
namespace {

absl::Status RunDelta(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  Composer c(backend, call, outputs);
  const bool normalises = call.flag("qk_l2norm");
  // Arrays hold what was computed until the core's work is queued behind it.
  const Array q = normalises ? QueryOrKey(c, "q") : Array();
  const Array k = normalises ? QueryOrKey(c, "k") : Array();
  const Array g = c.Contiguous(LogDecay(c));
  const Array beta = WriteStrength(c);
  if (!c.status().ok()) return c.status();

  RecurrentCall core = RecurrentCallOf(call, outputs);
  if (normalises) {
    core.q = q.tensor();
    core.k = k.tensor();
  }
  core.g = g.tensor();
  core.decay = DecayOf(g.tensor());
  core.delta = true;
  core.beta = beta.tensor();
  return Recurrent(backend, core);
}

bool SupportsDelta(const BoundCall& call) {
  return FitsRecurrent({call.dim("K"), DecayOf(call.input("g")), /*delta=*/true});
}

}  // namespace

Decay DecayOf(const Tensor& g) {
  return !g.defined() ? Decay::kNone : g.rank() == 4 ? Decay::kVector : Decay::kScalar;
}

RecurrentCall RecurrentCallOf(const BoundCall& call, const NamedTensors& outputs) {
  RecurrentCall core;
  core.q = call.input("q");
  core.k = call.input("k");
  core.v = call.input("v");
  core.o = *outputs.Find("o");
  core.sequences = call.sequences();
  core.scale = call.real("scale");
  core.initial_state = call.input("initial_state");
  core.final_state = *outputs.Find("final_state");
  return core;
}

Kernel DeltaCudaKernel() { return {"chunk_cuda", Device::kCuda, SupportsDelta, RunDelta}; }

}  // namespace attnd::cuda
