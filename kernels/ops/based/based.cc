#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/feature_maps.h"
#include "kernels/cores/recurrence_composed.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "based",
      .paper =
          "Simple linear attention language models balance the recall-throughput tradeoff "
          "(2024)",
      .summary = "Linear attention with the second-order Taylor map of exp, normalised",
      .core = "linear_recurrent",
      .definition =
          R"(Linear attention with the second-order Taylor map of exp, normalised (Arora et al. 2024). phi(x) = [1, sqrt(scale) x_i, scale x_i x_j / sqrt 2],  phi(q)·phi(k) = 1 + s + s^2/2,
  s = scale q·k
  S_t = S_{t-1} + phi(k_t) v_t^T,  z_t = z_{t-1} + phi(k_t),
  o_t = phi(q_t)^T S_t / (phi(q_t)·z_t + eps))",
      .inputs = {"q: float[B,T,H,K]  # a small K: states have 1 + K + K^2 rows",
                 "k: float[B,T,HK,K]", "v: float[B,T,HV,V]",
                 "initial_state: float32[M,HO,F,V]? if causal ~small  # zeros when absent",
                 "initial_state_z: float32[M,HO,F]? if causal  # sum of phi(k)",
                 "cu_seqlens: int32[M+1]?  # packed sequences, B = 1"},
      .attributes = {"scale: float = 1/sqrt(K) > 0  # multiplies q·k",
                     "eps: float = 1e-12 >= 0  # added to the denominator",
                     "normalize: bool = true  # divide by phi(q)·sum phi(k)",
                     "causal: bool = true"},
      .outputs = {"o: float[B,T,HO,V]", "final_state: float32[M,HO,F,V] if causal",
                  "final_state_z: float32[M,HO,F] if causal"},
      .derived = {"HO = max(H,HK,HV)", "F = 1 + K + K * K"},
      .rules = {"HO % H == 0  # head counts that divide the largest",
                "HO % HK == 0  # head counts that divide the largest",
                "HO % HV == 0  # head counts that divide the largest"},
  };
  return schema;
}

absl::Status Causal(Composer& c) {
  const double root = std::sqrt(c.real("scale"));
  Recurrence r;
  r.q = Apply(FeatureMap::kTaylor, InHeads(c, "q") * root);
  r.k = Apply(FeatureMap::kTaylor, InHeads(c, "k") * root);
  r.v = InHeads(c, "v");
  r.state = c.In("initial_state");
  r.z = c.In("initial_state_z");
  r.keeps_z = true;
  const RecurrenceResult result = RunRecurrence(c, r);
  c.Out("o", c.flag("normalize") ? result.o / (result.dots + c.real("eps")) : result.o);
  c.Out("final_state", result.state);
  c.Out("final_state_z", result.z);
  return c.status();
}

absl::Status Whole(Composer& c) {
  // [B,HO,T,K] and so on.
  const Array q = InHeads(c, "q").Permute({0, 2, 1, 3});
  const Array k = InHeads(c, "k").Permute({0, 2, 1, 3});
  const Array v = InHeads(c, "v").Permute({0, 2, 1, 3});
  const Array s = MatMul(q, k.T()) * c.real("scale");
  const Array weights = s * s * 0.5 + s + 1.0;
  Array o = MatMul(weights, v);
  if (c.flag("normalize")) o = o / (Sum(weights, -1) + c.real("eps"));
  c.Out("o", o.Permute({0, 2, 1, 3}));
  return c.status();
}

absl::Status Compose(Composer& c) { return c.flag("causal") ? Causal(c) : Whole(c); }

// A normaliser that is the sum of some keys' features: any other may leave a denominator near zero.
void DrawNormaliser(RandomSource& source, int64_t K) {
  const int64_t B = source.Dim("B", source.Uniform(1, 3));
  const int64_t M = source.Dim("M", source.options().packed ? source.Uniform(1, 4) : B);
  int64_t heads = 1;
  for (const char* symbol : {"H", "HK", "HV"}) {
    heads = std::max(heads, source.Dim(symbol, int64_t{1} << source.Uniform(0, 2)));
  }
  std::vector<double> sums;
  std::vector<double> key(static_cast<size_t>(K));
  const int64_t F = FeatureSize(FeatureMap::kTaylor, K);
  for (int64_t i = 0; i < M * heads; ++i) {
    std::vector<double> z(static_cast<size_t>(F), 0.0);
    for (int n = 0; n < 3; ++n) {
      for (double& x : key) x = source.Gaussian();
      double* at = z.data();
      *at++ += 1;
      for (const double x : key) *at++ += x;
      for (const double x : key) {
        for (const double y : key) *at++ += x * y / std::numbers::sqrt2;
      }
    }
    sums.insert(sums.end(), z.begin(), z.end());
  }
  const Dims shape = {M, heads, F};
  if (source.options().dtype == DType::kFloat64) {
    source.request().inputs.Set("initial_state_z", HostTensor<double>(shape, sums));
  } else {
    const std::vector<float> rounded(sums.begin(), sums.end());
    source.request().inputs.Set("initial_state_z", HostTensor<float>(shape, rounded));
  }
}

void Draw(RandomSource& source) {
  const int64_t K = source.Dim("K", source.Uniform(0, 3) == 0 ? 16 : source.Uniform(1, 8));
  // Often not causal: only a few of a test's calls draw attributes.
  if (source.options().random_attributes) source.Attribute("causal", source.Uniform(0, 3) == 0);
  const AttrValue* causal = source.request().attributes.Find("causal");
  if (causal != nullptr && *causal == AttrValue(false)) return;
  if (source.Wants("initial_state_z")) DrawNormaliser(source, K);
}

}  // namespace

void RegisterBased(Registry& registry);

void RegisterBased(Registry& registry) {
  Operator& op = registry.Add(Schema(), Compose);
  op.random = Draw;
  op.causal = [](const BoundCall& call) { return call.flag("causal"); };
}

}  // namespace attnd
