#include "kernels/core/registry.h"
#include "kernels/cores/feature_maps.h"
#include "kernels/cores/mean_attention.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "mala",
      .paper = "Rectifying Magnitude Neglect in Linear Attention (2025)",
      .summary =
          "Linear attention for images that keeps softmax's reaction to the query's magnitude",
      .core = "linear_global",
      .definition =
          R"(Linear attention whose distribution sharpens as the query grows (Fan et al., "Rectifying Magnitude Neglect in Linear Attention", 2025). phi = elu + 1, R the rotary positions:
  z_i = (scale/S) sum_j phi(q_i).phi(k_j),  a_ij = (scale/S) (R_i phi(q_i)).(R_j phi(k_j))
  o_i = (1 + 1/(z_i + eps)) sum_j a_ij v_j - z_i (1/S) sum_j v_j,  then + lepe(v)_i, then * gate_i)",
      .inputs = AxialInputs({"q: float[B,T,H,K]", "k: float[B,S,H,K]", "v: float[B,S,H,V]",
                             "gate: float[B,T,H,V]?  # multiplied in last, as it is"}),
      .attributes = AxialAttributes({"scale: float = 1/sqrt(K)  # multiplies phi(q).phi(k)",
                                     "eps: float = 1e-6  # added to z inside the reciprocal only"}),
      .outputs = {"o: float[B,T,H,V]"},
      .rules = AxialRules({}),
      .may_be_zero = "S",
      .float32_tolerance = 1e-4,
  };
  return schema;
}

absl::Status Compose(Composer& c) {
  const auto features = [&c](absl::string_view name) {
    return Apply(FeatureMap::kElu1, c.In(name).Transpose(1, 2));  // [B,H,T,K]
  };
  const Array q = features("q"), k = features("k"), v = c.In("v").Transpose(1, 2);
  const double weight = c.real("scale") / static_cast<double>(c.dim("S"));
  const Array z = Sum(MatMul(q, k.T()) * weight, -1);
  const auto turned = [turn = AxialTurn(c)](const Array& x) {
    return turn ? turn(x.Transpose(1, 2)).Transpose(1, 2) : x;
  };
  const Array a = MatMul(turned(q), turned(k).T()) * weight;
  const Array mean = Sum(v, 2) / static_cast<double>(c.dim("S"));
  const Array beta = Apply(UnaryOp::kReciprocal, z + c.real("eps")) + 1.0;
  Array o = beta * MatMul(a, v) - z * mean;
  o = WithLepe(c, o.Transpose(1, 2), c.In("v"));
  if (c.has("gate")) o = o * c.In("gate");
  c.Out("o", o);
  return c.status();
}

}  // namespace

void RegisterMala(Registry& registry);

void RegisterMala(Registry& registry) { registry.Add(Schema(), Compose).random = DrawAxial; }

}  // namespace attnd
