#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "kernels/core/part_call.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/block_choice.h"
#include "kernels/cores/entry_check.h"
#include "kernels/cores/softmax_composed.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "attention_rebalance",
      .paper =
          "Fixing Imbalanced Attention to Mitigate In-Context Hallucination of Large "
          "Vision-Language Model (2025)",
      .summary = "Softmax attention whose scores towards chosen image tokens are raised",
      .core = "softmax",
      .definition =
          R"(Softmax attention whose scores towards chosen image tokens are raised ("Fixing Imbalanced Attention to Mitigate In-Context Hallucination of Large Vision-Language Model", 2025). For image token m at key j = img_start + m, and the last query or all:
  l_ij = scale q_i.k_j,  l_ij + f_m head_weight |l_ij|,  f_m = alpha (top), beta (bottom), 0
  top: what the class token attends to in the vision encoder's first layer, and what is attended to there at all; bottom: outliers of the class token's attention in a deep layer)",
      .inputs =
          {"q: float[B,T,H,K]", "k: float[B,S,HK,K]", "v: float[B,S,HV,V]",
           "attn_first: float[B,HE,P0,P0]? ~probability  # maps of the vision encoder's first "
           "layer, in the place of the masks",
           "attn_deep: float[B,HE,P0,P0]? ~probability  # of its last but one",
           "top_mask: bool[B,PM]?  # the choice, made before",
           "bottom_mask: bool[B,PM]?  # with top_mask",
           "head_weight: float32[H]? ~probability  # strength of each head, >= 0; 1 when "
           "absent",
           "mask: bool[B,T,S]|[T,S]?  # true = may attend"},
      .attributes =
          {"img_start: int >= 0  # the key of image token 0", "alpha: float = 0.7 >= 0  # of top",
           "beta: float = 0.3 >= 0  # of bottom",
           "local_ratio: float = 0.25 >= 0 <= 1  # share that the class token chooses",
           "spatial_ratio: float = 0 >= 0 <= 1  # share chosen by the attention received",
           "vit_prefix: int = 1 >= 0  # tokens of the encoder before its patches, the class token "
           "first",
           "rows: {last, all} = last  # queries whose scores are raised", "causal: bool = true",
           "scale: float = 1/sqrt(K)  # multiplies q.k"},
      .outputs = {"o: float[B,T,H,V]", "top_mask: bool[B,P]", "bottom_mask: bool[B,P]",
                  "visual_mass: float32[B,H]  # the last query's attention to the image"},
      .derived = {"P = select(has(attn_first), P0 - vit_prefix, PM)"},
      .rules = {kQueryHeadsRule, "has(attn_first) == has(attn_deep)  # attn_first and attn_deep",
                "has(top_mask) == has(bottom_mask)  # top_mask and bottom_mask together",
                "has(attn_first) != has(top_mask)  # either the maps or the masks",
                "has(attn_first) -> vit_prefix >= 1  # a class token with the maps",
                "P >= 1  # at least one image token",
                "img_start + P <= S  # an image within the keys",
                "causal -> T <= S  # at most as many queries as keys with causal"},
  };
  return schema;
}

absl::Status Check(const BoundCall& call) {
  return CheckEntries(
      call, "head_weight", [](double weight) { return weight >= 0; }, "weights >= 0");
}

struct Choice {
  Array top;  // bool [B,P]
  Array bottom;
};

// Entries of x [B,P] above the third quartile by more than 1.5 times what lies between the
// quartiles, which are interpolated.
Array Outliers(const Array& x) {
  const int64_t count = x.dim(1);
  const Array falling = TakeRows(x.Unsqueeze(-1), SortDescending(x)).Select(-1, 0);
  const auto quantile = [&](double share) {
    const double rank = share * static_cast<double>(count - 1);
    const auto below = static_cast<int64_t>(std::floor(rank));
    const Array low = falling.Slice(1, count - 1 - below, 1);
    const Array high = falling.Slice(1, std::max<int64_t>(0, count - 2 - below), 1);
    return low + (high - low) * (rank - static_cast<double>(below));
  };
  const Array third = quantile(0.75);
  return third + (third - quantile(0.25)) * 1.5 < x;
}

Choice Choose(Composer& c) {
  if (c.has("top_mask")) return {c.In("top_mask"), c.In("bottom_mask")};
  const int64_t prefix = c.integer("vit_prefix"), patches = c.dim("P");
  const Array first = c.In("attn_first"), deep = c.In("attn_deep");
  const auto count = [&](const char* ratio) {
    return static_cast<int64_t>(std::floor(c.real(ratio) * static_cast<double>(patches) + 1e-9));
  };
  const auto of_class = [&](const Array& maps) {
    return Sum(maps.Select(2, 0).Slice(2, prefix, patches), 1).Select(1, 0);
  };
  const Array received = Sum(Sum(first.Slice(2, prefix, patches).Slice(3, prefix, patches), 2), 1) /
                         static_cast<double>(first.dim(1));
  const Array bottom = Outliers(of_class(deep));
  const Array local = Largest(of_class(first), {}, count("local_ratio"));
  const Array spatial = Largest(received.Select(1, 0).Select(1, 0), {}, count("spatial_ratio"));
  return {(local || spatial) && !bottom, bottom};
}

class Rebalanced {
 public:
  // factors [B,1,1,S]
  Rebalanced(Composer& c, const Choice& choice)
      : c_(c),
        heads_(c.dim("H")),
        k_(c.In("k").RepeatTo(2, heads_).Transpose(1, 2)),
        v_(c.In("v").RepeatTo(2, heads_).Transpose(1, 2)) {
    const Array zero = c.Scalar(0);
    const Array of_image = Where(choice.top, c.Scalar(c.real("alpha")),
                                 Where(choice.bottom, c.Scalar(c.real("beta")), zero));
    const Array of_keys = c.Zeros({c.dim("B"), c.dim("S")});
    of_keys.Slice(1, c.integer("img_start"), c.dim("P")).Assign(of_image);
    factors_ = of_keys.Unsqueeze(1).Unsqueeze(1);
    if (c.has("head_weight")) factors_ = factors_ * c.In("head_weight").Reshape({heads_, 1, 1});
  }

  // Queries [begin, begin + count): their outputs [B,count,H,V]; `weights` gets [B,H,count,n], of
  // the first n keys, which are all that they may attend to.
  Array Rows(int64_t begin, int64_t count, Array* weights) const {
    const int64_t all = c_.dim("S");
    // Under causality the last of these queries faces the last of these keys.
    const int64_t keys = c_.flag("causal") ? begin + count + all - c_.dim("T") : all;
    const Array q = c_.In("q").Slice(1, begin, count).Transpose(1, 2);
    Array scores = MatMul(q, k_.Slice(2, 0, keys).T()) * c_.real("scale");
    // Where a factor is 0 an infinite score must not meet it.
    const Array factors = factors_.Slice(-1, 0, keys);
    const Array raised = scores + factors * Apply(UnaryOp::kAbs, scores);
    scores = Where(c_.Scalar(0) < factors, raised, scores);
    Array allowed = WindowPairs(c_, count, keys, c_.flag("causal"), -1, -1);
    if (c_.has("mask")) {
      const Array mask = c_.In("mask").Slice(-2, begin, count).Slice(-1, 0, keys);
      allowed = allowed && (mask.rank() == 3 ? mask.Unsqueeze(1) : mask);
    }
    *weights = Softmax(Where(allowed, scores, -std::numeric_limits<double>::infinity()));
    return WeighedValues(c_, *weights, allowed, v_.Slice(2, 0, keys)).Transpose(1, 2);
  }

 private:
  Composer& c_;
  const int64_t heads_;
  const Array k_;  // [B,H,S,K]
  const Array v_;
  Array factors_;  // [B,1 or H,1,S]
};

// Queries before the last, whose scores nothing raises.
Array Plain(Composer& c) {
  const int64_t rows = c.dim("T") - 1;
  // Under causality the last key is the last query's alone.
  const int64_t keys = c.flag("causal") ? c.dim("S") - 1 : c.dim("S");
  PartCall attention(c, "softmax_attention");
  attention.PassAttribute("scale").PassAttribute("causal");
  attention.In("q", c.In("q").Slice(1, 0, rows));
  attention.In("k", c.In("k").Slice(1, 0, keys)).In("v", c.In("v").Slice(1, 0, keys));
  if (c.has("mask")) {
    const Array mask = c.In("mask");
    attention.In("mask", mask.Slice(-2, 0, rows).Slice(-1, 0, keys));
  }
  return attention.Out("o");
}

absl::Status Compose(Composer& c) {
  const Choice choice = Choose(c);
  const int64_t tokens = c.dim("T");
  const Array o = c.Zeros({c.dim("B"), tokens, c.dim("H"), c.dim("V")});
  const Rebalanced rebalanced(c, choice);
  const bool last = c.choice("rows") == "last";
  if (last && tokens > 1) o.Slice(1, 0, tokens - 1).Assign(Plain(c));
  constexpr int64_t kRows = 128;  // So many rows of scores are in memory.
  Array weights;
  for (int64_t begin = last ? std::max<int64_t>(0, tokens - 1) : 0; begin < tokens;
       begin += kRows) {
    const int64_t count = std::min(kRows, tokens - begin);
    o.Slice(1, begin, count).Assign(rebalanced.Rows(begin, count, &weights));
  }
  c.Out("o", o);
  c.Out("top_mask", choice.top);
  c.Out("bottom_mask", choice.bottom);
  if (tokens == 0) {
    c.Out("visual_mass", c.Zeros({c.dim("B"), c.dim("H")}));
  } else if (weights.defined()) {
    const Array row = weights.Select(2, weights.dim(2) - 1);
    c.Out("visual_mass", Sum(row.Slice(2, c.integer("img_start"), c.dim("P")), 2).Select(2, 0));
  }
  return c.status();
}

void Draw(RandomSource& source) {
  const bool maps = source.OneOf({{"attn_first", "attn_deep"}, {"top_mask", "bottom_mask"}}) == 0;
  const int64_t patches = source.Uniform(1, 20), prefix = source.Uniform(1, 2);
  if (maps) source.Dim("P0", prefix + patches);
  if (!maps) source.Dim("PM", patches);
  source.Attribute("vit_prefix", prefix);
  const int64_t start = source.Uniform(0, 5), tokens = source.Dim("T", source.Uniform(1, 60));
  source.Attribute("img_start", start);
  source.Dim("S", std::max(start + patches, tokens) + source.Uniform(0, 9));
  if (source.options().random_attributes) {
    source.Attribute("spatial_ratio", source.Uniform01());
    source.Attribute("local_ratio", source.Uniform01());
  }
}

}  // namespace

void RegisterAttentionRebalance(Registry& registry);

void RegisterAttentionRebalance(Registry& registry) {
  Operator& op = registry.AddOfParts(Schema(), Compose);
  op.check = Check;
  op.random = Draw;
  op.causal = [](const BoundCall& call) { return call.flag("causal"); };
}

}  // namespace attnd
