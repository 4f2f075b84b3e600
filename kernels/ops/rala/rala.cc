#include <algorithm>

#include "kernels/core/registry.h"
#include "kernels/cores/feature_maps.h"
#include "kernels/cores/mean_attention.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "rala",
      .paper = "Breaking the Low-Rank Dilemma of Linear Attention (2024)",
      .summary = "Linear attention for images with a weight for each key from the pooled query",
      .core = "linear_global",
      .definition =
          R"(Linear attention whose keys are weighted by a softmax over them of one pooled query, and whose output is multiplied by a gate (Fan et al., 2024). phi = elu + 1, R the rotary positions: alpha = S softmax_j(scale mean_i phi(q_i).phi(k_j)),  k~_j = alpha_j phi(k_j)
  o_i = (1/S) sum_j (R_i phi(q_i).R_j k~_j) v_j / (phi(q_i).(1/S) sum_j k~_j + eps),
  then + lepe(v)_i, then * gate_i)",
      .inputs = AxialInputs({"q: float[B,T,H,K]  # before the feature map",
                             "k: float[B,S,H,K]  # before the feature map", "v: float[B,S,H,V]",
                             "gate: float[B,T,H,V]?  # multiplied in last, as it is"}),
      .attributes = AxialAttributes({"scale: float = 1/sqrt(K)  # of the pooled query's scores",
                                     "eps: float = 1e-6 >= 0  # added to the normaliser"}),
      .outputs = {"o: float[B,T,H,V]"},
      .rules = AxialRules({}),
      .may_be_zero = "S",
  };
  return schema;
}

// k~ [B,S,H,K] of features q [B,T,H,K] and k [B,S,H,K].
Array WeightedKeys(Composer& c, const Array& q, const Array& k) {
  const auto queries = static_cast<double>(std::max<int64_t>(1, c.dim("T")));
  const Array pooled = Sum(q, 1) / queries;
  const Array scores = Sum(pooled * k, -1).Transpose(1, 3) * c.real("scale");  // [B,1,H,S]
  return k * (Softmax(scores) * static_cast<double>(c.dim("S"))).Transpose(1, 3);
}

absl::Status Compose(Composer& c) {
  const Array q = Apply(FeatureMap::kElu1, c.In("q")), k = Apply(FeatureMap::kElu1, c.In("k"));
  const Array v = c.In("v");
  Array o = MeanAttention(c, q, WeightedKeys(c, q, k), v, c.real("eps"), AxialTurn(c));
  o = WithLepe(c, o, v);
  c.Out("o", c.has("gate") ? o * c.In("gate") : o);
  return c.status();
}

}  // namespace

void RegisterRala(Registry& registry);

void RegisterRala(Registry& registry) { registry.AddOfParts(Schema(), Compose).random = DrawAxial; }

}  // namespace attnd
