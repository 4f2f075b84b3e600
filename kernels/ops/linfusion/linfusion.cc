#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/core/registry.h"
#include "kernels/cores/feature_maps.h"
#include "kernels/cores/layers.h"
#include "kernels/cores/mean_attention.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "linfusion",
      .paper = "LinFusion: 1 GPU, 1 Minute, 16K Image (2024)",
      .summary = "Linear attention with mean normalisation for diffusion models, or its module",
      .core = "linear_global",
      .definition =
          R"(Normalised linear attention in the place of a diffusion model's self-attention, with a nonlinear branch before the projections of queries and keys (Liu et al., 2024). phi = elu + 1: o_i = (1/T) sum_j (phi(q_i).phi(k_j)) v_j / ((1/T) sum_j phi(q_i).phi(k_j) + eps)
  q = to_q u,  u = x + W2 LeakyReLU(LayerNorm(W1 x + b1)) + b2, k likewise, v = to_v x)",
      .inputs = {"x: float[B,T,C]?  # the module's input, in the place of q, k and v",
                 "q: float[B,T,HQ,K] if !has(x)  # before the feature map",
                 "k: float[B,T,HQ,K] if !has(x)  # before the feature map",
                 "v: float[B,T,HQ,VQ] if !has(x)",
                 "to_q: float[P,C] if has(x)  # rows of head 0 first", "to_k: float[P,C] if has(x)",
                 "to_v: float[PV,C] if has(x)",
                 "q_w1: float[D,C] if has(x)  # branch of the queries", "q_b1: float[D] if has(x)",
                 "q_norm_weight: float[D] if has(x)", "q_norm_bias: float[D] if has(x)",
                 "q_w2: float[C,D] if has(x)", "q_b2: float[C] if has(x)",
                 "k_w1: float[D,C] if has(x)  # branch of the keys", "k_b1: float[D] if has(x)",
                 "k_norm_weight: float[D] if has(x)", "k_norm_bias: float[D] if has(x)",
                 "k_w2: float[C,D] if has(x)", "k_b2: float[C] if has(x)"},
      .attributes = {"eps: float = 1e-4 >= 0  # added to the normaliser",
                     "norm_eps: float = 1e-5 >= 0  # of the branches' layer norms",
                     "heads: int? >= 1  # of the module"},
      .outputs = {"o: float[B,T,HQ,VQ]|[B,T,heads,V]"},
      .derived = {"V = ceil_div(PV, heads)"},
      .rules = {"has(x) -> has(heads)  # heads with x",
                "has(x) -> P % heads == 0 && PV % heads == 0  # heads that divide the rows of "
                "to_q, to_k and to_v"},
  };
  return schema;
}

Array LeakyRelu(const Array& x) { return Maximum(x, x * 0.01); }

// x plus what the branch `side` ("q" or "k") adds to it.
Array Branch(Composer& c, const Array& x, absl::string_view side) {
  const auto in = [&](absl::string_view name) { return c.In(absl::StrCat(side, name)); };
  const Array hidden = LayerNorm(Dense(x, in("_w1"), in("_b1")), in("_norm_weight"),
                                 in("_norm_bias"), c.real("norm_eps"));
  return x + Dense(LeakyRelu(hidden), in("_w2"), in("_b2"));
}

absl::Status Compose(Composer& c) {
  Array q = c.In("q"), k = c.In("k"), v = c.In("v");
  if (c.has("x")) {
    const Array x = c.In("x");
    const auto heads = [&c](const Array& y) {
      const int64_t count = c.integer("heads");
      return y.defined() ? y.Reshape({y.dim(0), y.dim(1), count, y.dim(2) / count}) : Array();
    };
    q = heads(Dense(Branch(c, x, "q"), c.In("to_q")));
    k = heads(Dense(Branch(c, x, "k"), c.In("to_k")));
    v = heads(Dense(x, c.In("to_v")));
  }
  c.Out("o", MeanAttention(c, Apply(FeatureMap::kElu1, q), Apply(FeatureMap::kElu1, k), v,
                           c.real("eps")));
  return c.status();
}

void Draw(RandomSource& source) {
  if (!source.Wants("x")) return;
  source.Attribute("heads", source.Uniform(1, 4));
  const auto heads = std::get<int64_t>(*source.request().attributes.Find("heads"));
  source.Dim("P", heads * source.Uniform(1, 20));
  source.Dim("PV", heads * source.Uniform(1, 20));
  source.Dim("C", source.Uniform(1, 40));
}

}  // namespace

void RegisterLinfusion(Registry& registry);

void RegisterLinfusion(Registry& registry) { registry.AddOfParts(Schema(), Compose).random = Draw; }

}  // namespace attnd
