#include <limits>

#include "kernels/core/registry.h"
#include "kernels/primitives/composer.h"

namespace attnd {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "merge_attention",
      .paper = "Ring Attention with Blockwise Transformers for Near-Infinite Context (2023)",
      .summary = "Joins softmax attentions over disjoint keys into the attention over all of them",
      .core = "none",
      .definition =
          R"(Softmax attentions of the same queries over disjoint sets of keys, joined into the attention over all of them by their log-sums (Dao et al., "FlashAttention", 2022; "Ring Attention", 2023).
  m = max_p lse_p,  w_p = exp(lse_p - m),  o = sum_p w_p o_p / sum_p w_p,  lse = m + ln sum_p w_p over the parts that have keys (lse_p > -inf).)",
      .inputs = {"o_parts: float[P,B,T,H,V]  # the parts' outputs",
                 "lse_parts: float32[P,B,T,H]  # ln of a part's sum of exponentials; -inf: the "
                 "part had no key for this row"},
      .outputs = {"o: float[B,T,H,V]", "lse: float32[B,T,H]  # ln of the whole sum"},
  };
  return schema;
}

absl::Status Compose(Composer& c) {
  const Array lse = c.In("lse_parts").Unsqueeze(-1);
  const Array minus_infinity = c.Scalar(-kInfinity), zero = c.Scalar(0);
  const Array absent = Equal(lse, minus_infinity);
  const Array most = Max(lse, 0);
  const Array none = Equal(most, minus_infinity);
  // What a part without keys holds, be it NaN, must not be touched.
  const Array weights = Where(absent, zero, Exp(lse - Where(none, zero, most)));
  const Array total = Sum(weights, 0);
  const Array o = Sum(Where(absent, zero, c.In("o_parts")) * weights, 0) / total;
  c.Out("o", Where(none, zero, o).Select(0, 0));
  c.Out("lse", Where(none, minus_infinity, most + Log(total)).Select(0, 0).Select(-1, 0));
  return c.status();
}

}  // namespace

void RegisterMergeAttention(Registry& registry);

void RegisterMergeAttention(Registry& registry) { registry.Add(Schema(), Compose); }

}  // namespace attnd
