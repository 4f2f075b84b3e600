#include <cmath>

#include "kernels/core/registry.h"
#include "kernels/cores/linear_global.h"
#include "kernels/cores/linear_recurrent.h"
#include "kernels/primitives/cpu/vector_math.h"

namespace attnd {
namespace {

// The states of a head, 1 + K + K^2 rows of V, stay within the reach of a core's cache.
bool Fits(const BoundCall& call) { return call.dim("K") <= 64 && call.dim("V") <= 1024; }

// Both cores scale rows before the map: sqrt(scale) on either side of the product.
double InnerScale(const BoundCall& call) { return std::sqrt(call.real("scale")); }

absl::Status RunCausal(Backend&, const BoundCall& call, const NamedTensors& outputs) {
  cpu::LinearRecurrentCall core = cpu::RecurrentCallOf(call, outputs);
  core.query_map = core.key_map = FeatureMap::kTaylor;
  core.inner_scale = InnerScale(call);
  core.scale = 1;
  core.initial_z = call.input("initial_state_z");
  core.final_z = *outputs.Find("final_state_z");
  if (call.flag("normalize")) core.readout = cpu::NormalisedReadout(call.real("eps"));
  return cpu::LinearRecurrent(core);
}

absl::Status RunWhole(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  cpu::LinearGlobalCall core;
  core.feature_map = FeatureMap::kTaylor;
  core.inner_scale = InnerScale(call);
  if (call.flag("normalize")) {
    core.readout = [eps = static_cast<float>(call.real("eps"))](const cpu::LinearReadout& readout) {
      for (int64_t r = 0; r < readout.count; ++r) {
        const float* phi = readout.phi + r * readout.key_size;
        const float weight = cpu::DotRow(phi, readout.key_sum, readout.key_size);
        cpu::ScaleRow(readout.y + r * readout.value_size, 1.0f / (weight + eps),
                      readout.value_size);
      }
    };
  }
  core.q = call.input("q");
  core.k = call.input("k");
  core.v = call.input("v");
  core.o = *outputs.Find("o");
  if (!call.packed()) return cpu::LinearGlobal(backend, core);
  for (const Sequence& sequence : call.sequences()) {
    cpu::LinearGlobalCall one = core;
    for (Tensor* x : {&one.q, &one.k, &one.v, &one.o}) {
      *x = x->Slice(1, sequence.begin, sequence.length);
    }
    if (absl::Status s = cpu::LinearGlobal(backend, one); !s.ok()) return s;
  }
  return absl::OkStatus();
}

}  // namespace

void RegisterBasedCpu(Registry& registry);

void RegisterBasedCpu(Registry& registry) {
  registry.AddKernel(
      "based",
      {"chunk_cpu", Device::kCpu,
       [](const BoundCall& call) { return call.flag("causal") && Fits(call); }, RunCausal});
  registry.AddKernel("based", {"global_cpu", Device::kCpu,
                               [](const BoundCall& call) {
                                 return !call.flag("causal") && Fits(call) &&
                                        cpu::HeadsNest(call.dim("HK"), call.dim("HV"));
                               },
                               RunWhole});
}

}  // namespace attnd
