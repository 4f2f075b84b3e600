#include <algorithm>
#include <numeric>

#include "kernels/core/part_call.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/softmax_composed.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "power_attention",
      .paper =
          "PowerAttention: Exponentially Scaling of Receptive Fields for Effective Sparse "
          "Attention (2025)",
      .summary = "Causal attention to near blocks, sinks, and blocks at distances 1, 2, 4, 8, ...",
      .core = "block_sparse",
      .definition =
          R"(Causal attention to near blocks, sink blocks, and blocks at distances 1, 2, 4, 8,
..., so that d layers reach 2^d tokens back ("PowerAttention: Exponentially Scaling of Receptive Fields for Effective Sparse Attention", 2025). With p(i) = i + S - T, u = p(i) // block_size,
w = j // block_size and d = u - w:
  allowed(i,j) = j <= p(i) and (d < window_blocks or d & (d-1) = 0 or w < sink_blocks))",
      .inputs = {"q: float[B,T,H,K]", "k: float[B,S,HK,K]", "v: float[B,S,HV,V]",
                 "cu_seqlens: int32[M+1]?  # packed sequences, B = 1"},
      .attributes = {"block_size: int = 256 >= 1  # tokens of a block, by position",
                     "window_blocks: int = 5 >= 0  # block distances 0 to window_blocks - 1 are "
                     "read",
                     "sink_blocks: int = 1 >= 0  # the first key blocks, read by all",
                     "scale: float = 1/sqrt(K)  # multiplies q.k", "return_lse: bool = false"},
      .outputs = {"o: float[B,T,H,V]", "lse: float32[B,T,H] if return_lse  # ln of the sum"},
      .rules = {kQueryHeadsRule, "HV == HK  # as many value heads as key heads",
                "has(cu_seqlens) -> S == T  # as many keys as queries in packed calls"},
      .may_be_zero = "S",
  };
  return schema;
}

int64_t FloorDiv(int64_t a, int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }

// The pattern as lists [1,1,blocks of queries,blocks of keys]. Blocks are cut by position: blocks
// of queries are so short that none crosses one, which takes `rows` that divide S - T and
// block_size.
absl::StatusOr<Tensor> Lists(const Composer& c, int64_t block, int64_t rows) {
  const int64_t queries = c.dim("T"), keys = c.dim("S");
  const int64_t row_blocks = (queries + rows - 1) / rows, key_blocks = (keys + block - 1) / block;
  absl::StatusOr<Tensor> lists = AllocateHost(DType::kBool, {1, 1, row_blocks, key_blocks});
  if (!lists.ok()) return lists;
  for (int64_t i = 0; i < row_blocks; ++i) {
    const int64_t u = FloorDiv(i * rows + keys - queries, block);
    for (int64_t w = 0; w < key_blocks; ++w) {
      const int64_t d = u - w;
      const bool power = d >= 0 && (d & (d - 1)) == 0;
      lists->data<bool>()[i * key_blocks + w] =
          d >= 0 && (d < c.integer("window_blocks") || power || w < c.integer("sink_blocks"));
    }
  }
  return lists;
}

absl::Status Compose(Composer& c) {
  const int64_t queries = c.dim("T"), keys = c.dim("S");
  // A block over all keys is as good as a longer one.
  const int64_t block = std::clamp<int64_t>(keys, 1, c.integer("block_size"));
  const int64_t rows = std::gcd(block, keys - queries);
  const absl::StatusOr<Tensor> lists = Lists(c, block, rows);
  if (!lists.ok()) return lists.status();
  PartCall attention(c, "block_sparse_attention");
  attention.Pass("q").Pass("k").Pass("v").PassAttribute("scale").PassAttribute("return_lse");
  attention.In("block_mask", c.FromHost(*lists)).Set("causal", true);
  attention.Set("block_size_q", rows).Set("block_size_k", block);
  c.Out("o", attention.Out("o"));
  c.Out("lse", attention.Out("lse"));
  return c.status();
}

void Draw(RandomSource& source) {
  source.Attribute("block_size", source.Uniform(1, 9));
  if (!source.options().random_attributes) return;
  source.Attribute("window_blocks", source.Uniform(0, 4));
  source.Attribute("sink_blocks", source.Uniform(0, 2));
}

}  // namespace

void RegisterPowerAttention(Registry& registry);

void RegisterPowerAttention(Registry& registry) {
  Operator& op = registry.AddOfParts(Schema(), Compose);
  op.random = Draw;
  // With fewer keys than queries the first queries stand before every key.
  op.causal = [](const BoundCall& call) { return call.dim("S") >= call.dim("T"); };
}

}  // namespace attnd
