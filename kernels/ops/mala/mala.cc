#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/feature_maps.h"
#include "kernels/cores/lepe.h"
#include "kernels/cores/rope.h"

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
      .inputs = {"q: float[B,T,H,K]", "k: float[B,S,H,K]", "v: float[B,S,H,V]",
                 "gate: float[B,T,H,V]?  # multiplied in last, as it is",
                 "lepe_weight: float[H*V,kh,kw]?  # depthwise kernel over the values as an image",
                 "lepe_bias: float[H*V]? if has(lepe_weight)"},
      .attributes = {"scale: float = 1/sqrt(K)  # multiplies phi(q).phi(k)",
                     "eps: float = 1e-6  # added to z inside the reciprocal only",
                     "rope: {none, axial2d} = none", "rope_base: float = 10000 > 0",
                     "height: int? >= 1  # of the image; with axial2d or lepe_weight",
                     "width: int? >= 1  # of the image; with axial2d or lepe_weight"},
      .outputs = {"o: float[B,T,H,V]"},
      .rules =
          {"T > 0 -> S > 0  # at least one key",
           "rope == 'axial2d' -> K % 4 == 0  # K a multiple of 4 with axial2d",
           "rope == 'axial2d' || has(lepe_weight) -> has(height) && has(width)  # height and width",
           "rope == 'axial2d' || has(lepe_weight) -> S == T  # as many keys as queries",
           "has(height) && has(width) -> T == height * width  # height * width tokens",
           "has(lepe_weight) -> kh % 2 == 1 && kw % 2 == 1  # odd kernel sizes"},
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
  Array turned_q = q, turned_k = k;
  if (c.choice("rope") == "axial2d") {
    const Array angles = AxialRopeAngles(c, c.integer("height"), c.integer("width"), c.dim("K"),
                                         c.real("rope_base"));
    turned_q = Rotate(q, RopePairs::kInterleaved, angles);
    turned_k = Rotate(k, RopePairs::kInterleaved, angles);
  }
  const Array a = MatMul(turned_q, turned_k.T()) * weight;
  const Array mean = Sum(v, 2) / static_cast<double>(c.dim("S"));
  const Array beta = Apply(UnaryOp::kReciprocal, z + c.real("eps")) + 1.0;
  Array o = beta * MatMul(a, v) - z * mean;
  o = o.Transpose(1, 2);
  if (c.has("lepe_weight")) {
    o = o + Lepe(c.In("v"), c.In("lepe_weight"), c.In("lepe_bias"), c.integer("height"),
                 c.integer("width"));
  }
  if (c.has("gate")) o = o * c.In("gate");
  c.Out("o", o);
  return c.status();
}

// An image whenever something needs one.
void Draw(RandomSource& source) {
  const bool random = source.options().random_attributes;
  if (random) source.Attribute("rope", std::string(source.Uniform(0, 1) == 0 ? "none" : "axial2d"));
  const AttrValue* rope = source.request().attributes.Find("rope");
  const bool turns = rope != nullptr && *rope == AttrValue(std::string("axial2d"));
  if (turns) source.Dim("K", 4 * source.Uniform(1, 10));
  if (source.request().attributes.contains("height") || (!turns && source.Uniform(0, 1) == 0)) {
    return;
  }
  const int64_t* tokens = source.options().dims.Find("T");
  const int64_t height = tokens != nullptr ? 1 : source.Uniform(1, 9);
  const int64_t width = tokens != nullptr ? *tokens : source.Uniform(1, 9);
  source.Attribute("height", height);
  source.Attribute("width", width);
  source.Dim("S", source.Dim("T", height * width));
  source.Dim("kh", 2 * source.Uniform(0, 2) + 1);
  source.Dim("kw", 2 * source.Uniform(0, 2) + 1);
}

}  // namespace

void RegisterMala(Registry& registry);

void RegisterMala(Registry& registry) { registry.Add(Schema(), Compose).random = Draw; }

}  // namespace attnd
