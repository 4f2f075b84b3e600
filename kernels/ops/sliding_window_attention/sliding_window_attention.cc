#include "kernels/core/part_call.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/softmax_composed.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "sliding_window_attention",
      .paper = "Longformer: The Long-Document Transformer (2020)",
      .summary = "Softmax attention to the last positions, the query's own counted",
      .core = "softmax",
      .definition =
          R"(Softmax attention to the last W positions, the query's own among them, and to the first `sink` keys. With p(i) = i + S - T:
  allowed(i,j) = -window_right <= p(i) - j < window or (j < sink and j <= p(i) + window_right))",
      .inputs = {"q: float[B,T,H,K]", "k: float[B,S,HK,K]", "v: float[B,S,HV,V]",
                 "cu_seqlens: int32[M+1]?  # packed sequences, B = 1"},
      .attributes = {"window: int >= 1  # positions that a query reads, its own included",
                     "window_right: int = 0 >= 0  # positions after it; 0 = causal",
                     "sink: int = 0 >= 0  # the first keys, read by every query behind them",
                     "scale: float = 1/sqrt(K)  # multiplies q.k", "return_lse: bool = false"},
      .outputs = {"o: float[B,T,H,V]", "lse: float32[B,T,H] if return_lse  # ln of the sum"},
      .rules = {kQueryHeadsRule, "HV == HK  # as many value heads as key heads",
                "has(cu_seqlens) -> S == T  # as many keys as queries in packed calls"},
      .may_be_zero = "S",
  };
  return schema;
}

// With sinks and a look ahead no band is left: pairs by pair.
Array Pairs(Composer& c) {
  const int64_t queries = c.dim("T"), keys = c.dim("S"), right = c.integer("window_right");
  const Array near = WindowPairs(c, queries, keys, false, c.integer("window") - 1, right);
  const Array reached = WindowPairs(c, queries, keys, false, -1, right);
  const Array sinks = c.Iota(keys) < c.Scalar(static_cast<double>(c.integer("sink")));
  return near || (reached && sinks);
}

absl::Status Compose(Composer& c) {
  const bool causal = c.integer("window_right") == 0, sinks = c.integer("sink") > 0;
  // Blocks of which none is listed leave the window and the sinks.
  PartCall attention(c, causal && sinks ? "block_sparse_attention" : "softmax_attention");
  attention.Pass("q").Pass("k").Pass("v").PassAttribute("scale").PassAttribute("return_lse");
  if (causal && sinks) {
    constexpr int64_t kBlock = 64;
    attention.Set("causal", true).PassAttribute("window").PassAttribute("sink");
    const int64_t blocks = (c.dim("T") + kBlock - 1) / kBlock;
    attention.In("block_indices", c.Empty(DType::kInt64, {1, 1, blocks, 0}));
  } else if (sinks) {
    attention.In("mask", Pairs(c));
  } else {
    attention.Set("causal", causal).Set("window_left", c.integer("window") - 1);
    attention.PassAttribute("window_right");
  }
  c.Out("o", attention.Out("o"));
  c.Out("lse", attention.Out("lse"));
  return c.status();
}

void Draw(RandomSource& source) {
  source.Attribute("window", source.Uniform(1, 40));
  if (!source.options().random_attributes) return;
  source.Attribute("window_right", source.Uniform(0, 1) == 0 ? int64_t{0} : source.Uniform(0, 20));
  source.Attribute("sink", source.Uniform(0, 1) == 0 ? int64_t{0} : source.Uniform(0, 20));
}

}  // namespace

void RegisterSlidingWindowAttention(Registry& registry);

void RegisterSlidingWindowAttention(Registry& registry) {
  Operator& op = registry.AddOfParts(Schema(), Compose);
  op.random = Draw;
  // With fewer keys than queries the first queries stand before every key.
  op.causal = [](const BoundCall& call) {
    return call.integer("window_right") == 0 && call.dim("S") >= call.dim("T");
  };
}

}  // namespace attnd
