#include <algorithm>
#include <string>

#include "kernels/core/part_call.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/block_choice.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "dual_cross_attention",
      .paper =
          "Dual Cross-Attention Learning for Fine-Grained Visual Categorization and Object "
          "Re-Identification (2022)",
      .summary = "Attention of the highest-ranked patches (glca), or over two images (pwca)",
      .core = "softmax",
      .definition =
          R"(The two cross-attentions of DCAL (Zhu et al., "Dual Cross-Attention Learning for Fine-Grained Visual Categorization and Object Re-Identification", 2022).
  glca: the patches that the class token's attention rollout ranks highest query the whole image;
        r = row 0 of S_L ... S_1, S_l = (mean over heads of attn_l + E) / 2
  pwca: an image attends to itself and a second image under one softmax)",
      .inputs =
          {"q: float[B,T,H,K]", "k: float[B,T,H,K]", "v: float[B,T,H,V]",
           "attn: float[B,L,HA,T,T]|[B,L,T,T] if mode == 'glca' ~probability  # maps of the L "
           "layers, the first first",
           "k2: float[B,S2,H,K] if mode == 'pwca'  # keys of the other image",
           "v2: float[B,S2,H,V] if mode == 'pwca'  # values of the other image"},
      .attributes = {"mode: {glca, pwca} = glca", "scale: float = 1/sqrt(K)  # multiplies q.k",
                     "num_prefix: int = 1 >= 1  # leading tokens that are no patches, the class "
                     "token first",
                     "top_ratio: float = 0.1 > 0 <= 1  # share of the patches that is kept",
                     "top_r: int? >= 1  # how many are kept, in the place of top_ratio",
                     "include_prefix: bool = true  # the prefix's tokens are queries too"},
      .outputs = {"o: float[B,RQ,H,V]",
                  "indices: int32[B,RQ] if mode == 'glca'  # the queries' tokens: prefix, then "
                  "patches by rank",
                  "rollout: float32[B,T] if mode == 'glca'  # of the class token"},
      .derived = {"P = T - num_prefix",
                  "R = select(has(top_r), top_r, max(1, floor(top_ratio * P + 1e-9)))",
                  "RQ = select(mode == 'pwca', T, R + select(include_prefix, num_prefix, 0))"},
      .rules = {"mode == 'glca' -> num_prefix < T  # at least one patch behind the prefix",
                "mode == 'glca' && has(top_r) -> top_r <= P  # top_r of at most all patches"},
      .may_be_zero = "S2",
  };
  return schema;
}

// [B,T]: row 0 of the product of the layers' maps, from the last on; no product of matrices.
Array Rollout(Composer& c) {
  const Array given = c.In("attn");
  const Array maps = given.rank() == 5 ? given : given.Unsqueeze(2);  // [B,L,HA,T,T]
  const int64_t layers = maps.dim(1);
  const Array first = c.Zeros({maps.dim(0), 1, 1, maps.dim(3)});
  first.Slice(3, 0, 1).Assign(c.Scalar(1));
  Array row = first;
  for (int64_t l = layers - 1; l >= 0; --l) {
    const Array next = Sum(MatMul(row, maps.Select(1, l)), 1) / static_cast<double>(maps.dim(2));
    row = next * 0.5 + row * 0.5;
  }
  return row.Select(1, 0).Select(1, 0);
}

absl::Status Compose(Composer& c) {
  const Array q = c.In("q"), k = c.In("k"), v = c.In("v");
  PartCall attention(c, "softmax_attention");
  attention.PassAttribute("scale");
  if (c.choice("mode") == "pwca") {
    attention.In("q", q);
    attention.In("k", Concat(k, c.In("k2"), 1)).In("v", Concat(v, c.In("v2"), 1));
    c.Out("o", attention.Out("o"));
    return c.status();
  }
  const int64_t rows = c.dim("B"), prefix = c.integer("num_prefix");
  const Array rollout = Rollout(c);
  Array indices = LargestIndices(rollout.Slice(1, prefix, c.dim("P")), c.dim("R")) +
                  static_cast<double>(prefix);
  if (c.flag("include_prefix")) {
    const Array before = c.Cast(c.Iota(prefix), DType::kInt64).Unsqueeze(0);
    indices = Concat(before.Expand({rows, prefix}), indices, 1);
  }
  const int64_t heads = c.dim("H"), size = c.dim("K");
  const Array taken = TakeRows(q.Reshape({rows, c.dim("T"), heads * size}), indices);
  attention.In("q", taken.Reshape({rows, c.dim("RQ"), heads, size})).In("k", k).In("v", v);
  c.Out("o", attention.Out("o"));
  c.Out("indices", indices);
  c.Out("rollout", rollout);
  return c.status();
}

void Draw(RandomSource& source) {
  const int64_t prefix = source.Uniform(1, 3), patches = source.Uniform(1, 40);
  const int64_t tokens = source.Dim("T", prefix + patches);
  if (tokens < 2) source.Attribute("mode", std::string("pwca"));
  if (!source.options().random_attributes) return;
  source.Attribute("num_prefix", std::min(prefix, std::max<int64_t>(1, tokens - 1)));
  source.Attribute("top_ratio", 0.05 + 0.9 * source.Uniform01());
  if (tokens > prefix && source.Uniform(0, 1) == 0) {
    source.Attribute("top_r", source.Uniform(1, tokens - prefix));
  }
}

}  // namespace

void RegisterDualCrossAttention(Registry& registry);

void RegisterDualCrossAttention(Registry& registry) {
  registry.AddOfParts(Schema(), Compose).random = Draw;
}

}  // namespace attnd
