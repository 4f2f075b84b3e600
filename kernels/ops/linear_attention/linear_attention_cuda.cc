#include <algorithm>

#include "kernels/cores/linear_global_cuda.h"
#include "kernels/cores/recurrent_operator_cuda.h"
#include "kernels/cores/recurrent_sm90.h"
#include "kernels/primitives/composer.h"

namespace attnd {
namespace {

absl::Status RunCausal(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  Composer c(backend, call, outputs);
  const FeatureMap map = FeatureMapFromName(call.choice("feature_map"));
  cuda::RecurrentCall core = cuda::RecurrentCallOf(call, outputs);
  Array q, k, y, dots;
  if (map != FeatureMap::kIdentity) {
    q = Apply(map, c.In("q"));
    k = Apply(map, c.In("k"));
    if (!c.status().ok()) return c.status();
    core.q = q.tensor();
    core.k = k.tensor();
  }
  if (call.flag("normalize")) {
    const int64_t B = call.dim("B"), T = call.dim("T"), HO = call.dim("HO");
    y = c.Empty({B, T, HO, call.dim("V")});
    dots = c.Empty({B, T, HO});
    if (!c.status().ok()) return c.status();
    core.o = y.tensor();
    core.dots = dots.tensor();
    core.initial_z = call.input("initial_state_z");
    core.final_z = *outputs.Find("final_state_z");
  }
  if (absl::Status s = cuda::Recurrent(backend, core); !s.ok()) return s;
  if (call.flag("normalize")) c.Out("o", y / (dots + call.real("eps")).Unsqueeze(-1));
  return c.status();
}

absl::Status RunCausalSm90(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  return cuda::RecurrentSm90(backend, cuda::RecurrentCallOf(call, outputs));
}

bool SupportsCausalSm90(const BoundCall& call) {
  return call.flag("causal") && !call.flag("normalize") &&
         FeatureMapFromName(call.choice("feature_map")) == FeatureMap::kIdentity;
}

absl::Status RunWhole(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  cuda::LinearGlobalCall core;
  core.q = call.input("q");
  core.k = call.input("k");
  core.v = call.input("v");
  core.o = *outputs.Find("o");
  core.feature_map = FeatureMapFromName(call.choice("feature_map"));
  core.key_mask = call.input("k_mask");
  core.readout =
      call.flag("normalize") ? cuda::LinearReadout::kNormalize : cuda::LinearReadout::kScale;
  core.scale = call.real("scale");
  core.eps = call.real("eps");
  return cuda::LinearGlobal(backend, core);
}

// The global core sums once for each head of the finer of k and v, so one count must divide the
// other.
bool FitsGlobal(const BoundCall& call) {
  const int64_t keys = call.dim("HK"), values = call.dim("HV");
  return std::max(keys, values) % std::min(keys, values) == 0 &&
         call.dim("K") <= cuda::kMaxLinearGlobalHeadSize &&
         call.dim("V") <= cuda::kMaxLinearGlobalHeadSize;
}

}  // namespace

void RegisterLinearAttentionCuda(Registry& registry);

void RegisterLinearAttentionCuda(Registry& registry) {
  cuda::AddRecurrentSm90(registry, "linear_attention", SupportsCausalSm90, RunCausalSm90);
  registry.AddKernel(
      "linear_attention",
      {"chunk_cuda", Device::kCuda,
       [](const BoundCall& call) {
         return call.flag("causal") && cuda::FitsRecurrent({call.dim("K"), Decay::kNone});
       },
       RunCausal});
  registry.AddKernel(
      "linear_attention",
      {"global_cuda", Device::kCuda,
       [](const BoundCall& call) { return !call.flag("causal") && FitsGlobal(call); }, RunWhole});
}

}  // namespace attnd
