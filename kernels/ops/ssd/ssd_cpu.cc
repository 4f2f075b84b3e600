#include "kernels/core/registry.h"
#include "kernels/cores/linear_recurrent.h"
#include "kernels/ops/ssd/ssd_steps.h"
#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"

namespace attnd {
namespace {

// (y + d x) silu(z) of a head's rows, as SsdReadout has it.
void ReadOut(const BoundCall& call, const cpu::RecurrentReadout& read) {
  const Tensor &x = call.input("x"), &d = call.input("d"), &z = call.input("z");
  const int64_t P = read.value_size, size = read.count * P;
  cpu::Scratch scratch;
  float* rows = scratch.Take<float>(size);
  const auto load = [&](const Tensor& tensor) {
    cpu::LoadHeadRows(tensor, read.sequence.row, read.sequence.begin + read.begin, read.count,
                      read.head, x.dim(2), rows);
  };
  if (d.defined()) {
    load(x);
    if (d.rank() == 1) {
      cpu::AxpyRow(d.data<float>()[read.head], rows, read.y, size);
    } else {
      for (int64_t at = 0; at < size; at += P) {
        cpu::MulAddRow(d.data<float>() + read.head * P, rows + at, read.y + at, P);
      }
    }
  }
  if (z.defined()) {
    load(z);
    cpu::SiluRow(rows, size);
    cpu::MulRow(read.y, rows, read.y, size);
  }
}

absl::Status Run(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  Composer c(backend, call, outputs);
  const SsdSteps steps = SsdStepsOf(c);
  if (!c.status().ok()) return c.status();
  cpu::LinearRecurrentCall core;
  core.q = call.input("c");
  core.k = call.input("b");
  core.v = call.input("x");
  core.o = *outputs.Find("o");
  core.sequences = call.sequences();
  core.decay = Decay::kScalar;
  core.g = steps.log_decay.tensor();
  core.value_weight = steps.dt.tensor();
  core.initial_state = call.input("initial_state");
  core.final_state = *outputs.Find("final_state");
  if (call.has("d") || call.has("z")) {
    core.readout = [&call](const cpu::RecurrentReadout& read) { ReadOut(call, read); };
  }
  return cpu::LinearRecurrent(core);
}

}  // namespace

void RegisterSsdCpu(Registry& registry);

void RegisterSsdCpu(Registry& registry) {
  registry.AddKernel("ssd", {"chunk_cpu", Device::kCpu,
                             [](const BoundCall& call) {
                               return cpu::FitsRecurrentCore(call.dim("N"), call.dim("P"));
                             },
                             Run});
}

}  // namespace attnd
