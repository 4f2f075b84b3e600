#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "kernels/core/part_call.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/block_choice.h"
#include "kernels/cores/softmax_composed.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "hip_attention",
      .paper =
          "A Training-Free Sub-quadratic Cost Transformer Model Serving Framework with "
          "Hierarchically Pruned Attention (2025)",
      .summary = "Causal attention to sinks, a window, and keys that a tree search finds",
      .core = "block_sparse",
      .definition =
          R"(Causal attention to sinks, a window, and the keys that a binary tree search finds for each block of queries ("A Training-Free Sub-quadratic Cost Transformer Model Serving Framework with Hierarchically Pruned Attention", 2025). M nodes (ranges of key blocks) are halved until each is one block; of the 2M halves those M stay whose representative block has the largest q.k, over sampled queries and keys. Then block-sparse attention.)",
      .inputs = {"q: float[B,T,H,K]", "k: float[B,S,HK,K]", "v: float[B,S,HV,V]",
                 "cu_seqlens: int32[M+1]?  # packed sequences, B = 1"},
      .attributes =
          {"mask_k: int = 512 >= 1  # keys that the search keeps",
           "block_size_q: int = 64 >= 1  # queries that share a search, from the call's first on",
           "block_stride_q: int = 2 >= 1  # every such query is used in the search",
           "block_size_k: int = 2 >= 1  # keys of a block",
           "block_stride_k: int = 1 >= 1  # every such key of a block is scored",
           "sliding_window: int = 256 >= 0  # the nearest keys, read by all",
           "sink: int = 16 >= 0  # the first keys, read by all",
           "representative: {first, center, last} = center  # the block that stands for a range",
           "scale: float = 1/sqrt(K) > 0  # of the attention, not of the search",
           "return_lse: bool = false", "return_blocks: bool = false"},
      .outputs = {"o: float[B,T,H,V]", "lse: float32[B,T,H] if return_lse  # ln of the sum",
                  "block_starts: int32[M,H,MB,NK] if return_blocks  # first key of every chosen "
                  "block, rising; -1 beyond their count"},
      .derived = {"NS = select(has(cu_seqlens), LT, S)",
                  "NC = max(0, max(0, NS - sliding_window) - sink)",
                  "NK = max(1, ceil_div(min(NC, mask_k), block_size_k))",
                  "MB = ceil_div(LT, block_size_q)"},
      .rules = {kQueryHeadsRule, "HV == HK  # as many value heads as key heads",
                "block_stride_q <= block_size_q  # a stride of at most the block",
                "block_size_k % block_stride_k == 0  # a stride that divides the block",
                "sink % block_size_k == 0  # a multiple of block_size_k",
                "sliding_window % block_size_k == 0  # a multiple of block_size_k",
                "has(cu_seqlens) -> S == T  # as many keys as queries in packed calls"},
      .may_be_zero = "S",
      .packed_by_sequence = false,
  };
  return schema;
}

// Positions and block numbers are float64, which holds them all.
Array Numbers(Composer& c, const std::vector<int64_t>& values) {
  const Dims shape = {static_cast<int64_t>(values.size())};
  return c.Cast(c.FromHost(HostTensor<int64_t>(shape, values)), DType::kFloat64);
}

Array Joined(const Array& left, const Array& right) {
  return Concat(left.Unsqueeze(-1), right.Unsqueeze(-1), -1);
}

// The searches of a sequence's blocks of queries.
class Search {
 public:
  // q [B,T,H,K], k [B,S,HK,K]
  Search(Composer& c, const Array& q, const Array& k)
      : c_(c),
        queries_(q.dim(1)),
        keys_(k.dim(1)),
        block_q_(std::min(c.integer("block_size_q"), std::max<int64_t>(1, queries_))),
        block_k_(c.integer("block_size_k")),
        q_(q.Transpose(1, 2)),
        k_(k.RepeatTo(2, q.dim(2)).Transpose(1, 2)) {}

  int64_t block_q() const { return block_q_; }
  int64_t searches() const { return (queries_ + block_q_ - 1) / block_q_; }

  // float64 [B,H,searches,slots]: numbers of the chosen blocks from the sink on, rising, then -1.
  Array Chosen(int64_t slots) const {
    Array all = c_.Cast(c_.Full({q_.dim(0), q_.dim(1), searches(), slots}, -1), DType::kFloat64);
    for (int64_t u = 0; u < searches() && c_.status().ok(); ++u) {
      const Array found = Find(u);
      if (found.defined()) all.Select(2, u).Slice(2, 0, found.dim(2)).Assign(found);
    }
    return all;
  }

 private:
  struct Nodes {
    Array start;  // float64 [B,H,n]
    Array size;
  };

  // Numbers of the blocks that the queries of block u search out, undefined if there are none.
  Array Find(int64_t u) const {
    const int64_t first = u * block_q_, end = std::min(queries_, first + block_q_);
    const int64_t visible = end + keys_ - queries_;
    const int64_t candidates = std::max<int64_t>(
        0, std::max<int64_t>(0, visible - c_.integer("sliding_window")) - c_.integer("sink"));
    const int64_t blocks = CeilDiv(candidates, block_k_);
    if (blocks == 0) return {};
    const int64_t most = c_.integer("mask_k");
    const int64_t nodes = candidates <= most ? blocks : CeilDiv(most, block_k_);
    std::vector<int64_t> starts, sizes;
    for (int64_t m = 0; m < nodes; ++m) {
      starts.push_back(blocks * m / nodes);
      sizes.push_back(blocks * (m + 1) / nodes - starts.back());
    }
    const Dims shape = {q_.dim(0), q_.dim(1), nodes};
    Nodes kept{Numbers(c_, starts).Expand(shape), Numbers(c_, sizes).Expand(shape)};
    if (blocks == nodes) return kept.start;
    const Array rows = Gather(q_, Sampled(first, end), 2);
    // Nodes of one block are halved into themselves, so that a round too many changes nothing.
    for (int64_t size = CeilDiv(blocks, nodes); size > 1; size -= size / 2) {
      kept = Halved(kept, rows, visible);
    }
    return kept.start;
  }

  // Indices of the queries that are used in the search.
  Array Sampled(int64_t first, int64_t end) const {
    const int64_t stride = std::min(c_.integer("block_stride_q"), queries_);
    std::vector<int64_t> rows;
    for (int64_t i = first + stride - 1; i < end; i += stride) rows.push_back(i);
    const bool all = rows.empty();
    for (int64_t i = first; all && i < end; ++i) rows.push_back(i);
    return c_.FromHost(HostTensor<int64_t>({static_cast<int64_t>(rows.size())}, rows));
  }

  Nodes Halved(const Nodes& nodes, const Array& rows, int64_t visible) const {
    const int64_t count = nodes.start.dim(2);
    const Dims shape = {q_.dim(0), q_.dim(1), 2 * count};
    const Array half = Apply(UnaryOp::kFloor, nodes.size * 0.5);
    const Array start = Joined(nodes.start, nodes.start + half).Reshape(shape);
    const Array size = Joined(half, nodes.size - half).Reshape(shape);
    const Array there = Zero() < size;
    const Array chosen = Largest(Scores(start, size, rows, visible), there, count);
    // The chosen in the order of their starts, which is that of their places.
    const Array place = c_.Iota(2 * count);
    const Array order = LargestIndices(
        Where(chosen, -place.Expand(shape), -std::numeric_limits<double>::infinity()), count);
    const auto take = [&order](const Array& x) {
      return TakeRows(x.Unsqueeze(-1), order).Select(-1, 0);
    };
    return {take(start), take(size)};
  }

  // [B,H,n]: the largest q.k of the representatives' sampled keys with the sampled queries.
  Array Scores(const Array& start, const Array& size, const Array& rows, int64_t visible) const {
    const std::string& which = c_.choice("representative");
    Array block = start;
    if (which == "center") block = start + Apply(UnaryOp::kFloor, size * 0.5);
    if (which == "last") block = Maximum(start + size - 1.0, 0.0);
    const Array base =
        (block * static_cast<double>(block_k_) + static_cast<double>(c_.integer("sink")))
            .Unsqueeze(-1);
    // Samples behind the last visible key give way to the first sample, or to the block's first
    // key.
    const int64_t stride = c_.integer("block_stride_k");
    std::vector<int64_t> offsets = {stride - 1};
    for (int64_t at = 2 * stride - 1; at < std::min(block_k_, keys_); at += stride) {
      offsets.push_back(at);
    }
    const Array limit = c_.Cast(c_.Scalar(static_cast<double>(visible)), DType::kFloat64);
    const Array sample = base + Numbers(c_, offsets);
    const Array first = base + static_cast<double>(stride - 1);
    const Array inside = Where(sample < limit, sample, Where(first < limit, first, base));
    const int64_t samples = static_cast<int64_t>(offsets.size()), nodes = start.dim(2);
    const Array index =
        c_.Cast(inside, DType::kInt64).Reshape({q_.dim(0), q_.dim(1), nodes * samples});
    const Array best = Max(MatMul(rows, TakeRows(k_, index).T()), 2);
    return Max(best.Reshape({q_.dim(0), q_.dim(1), nodes, samples}), 3).Select(3, 0);
  }

  Array Zero() const { return c_.Cast(c_.Scalar(0), DType::kFloat64); }
  static int64_t CeilDiv(int64_t a, int64_t b) { return a / b + (a % b != 0 ? 1 : 0); }

  Composer& c_;
  const int64_t queries_, keys_, block_q_, block_k_;
  const Array q_;  // [B,H,T,K]
  const Array k_;  // [B,H,S,K]
};

absl::Status Compose(Composer& c) {
  const Array q = c.In("q"), k = c.In("k"), v = c.In("v");
  const int64_t heads = c.dim("H"), slots = c.dim("NK"), block_k = c.integer("block_size_k");
  const int64_t before = c.integer("sink") / block_k;  // Blocks of the sink.
  const Array o = c.Zeros({c.dim("B"), c.dim("T"), heads, c.dim("V")});
  const Array lse = c.Zeros({c.dim("B"), c.dim("T"), heads});
  const Array chosen = c.Cast(c.Full({c.dim("M"), heads, c.dim("MB"), slots}, -1), DType::kFloat64);
  const Array none = c.Cast(c.Scalar(0), DType::kFloat64);
  // Rows of the batch together, packed sequences one by one.
  const auto run = [&](const Sequence& sequence, int64_t keys, int64_t states) {
    if (sequence.length == 0 || !c.status().ok()) return;
    const auto cut = [&](const Array& x) { return x.Slice(1, sequence.begin, sequence.length); };
    const auto cut_keys = [&](const Array& x) { return x.Slice(1, sequence.begin, keys); };
    const Search search(c, cut(q), cut_keys(k));
    const Array found = search.Chosen(slots);
    const Array listed = Where(found < none, found, found + static_cast<double>(before));
    PartCall attention(c, "block_sparse_attention");
    attention.In("q", cut(q)).In("k", cut_keys(k)).In("v", cut_keys(v)).PassAttribute("scale");
    attention.In("block_indices", c.Cast(listed, DType::kInt64)).PassAttribute("sink");
    attention.Set("causal", true)
        .Set("window", c.integer("sliding_window"))
        .Set("return_lse", true);
    attention.Set("block_size_q", search.block_q()).Set("block_size_k", block_k);
    cut(o).Assign(attention.Out("o"));
    cut(lse).Assign(attention.Out("lse"));
    chosen.Slice(0, sequence.state, states).Slice(2, 0, search.searches()).Assign(found);
  };
  if (c.call().packed()) {
    for (const Sequence& sequence : c.call().sequences()) run(sequence, sequence.length, 1);
  } else {
    run({0, 0, c.dim("T"), 0}, c.dim("S"), c.dim("B"));
  }
  c.Out("o", o);
  c.Out("lse", lse);
  const Array first =
      chosen * static_cast<double>(block_k) + static_cast<double>(c.integer("sink"));
  c.Out("block_starts", Where(chosen < none, chosen, first));
  return c.status();
}

// Searches of some rounds among few keys.
void Draw(RandomSource& source) {
  const int64_t stride = source.Uniform(1, 2), block = stride * source.Uniform(1, 2);
  source.Attribute("mask_k", source.Uniform(1, 12));
  const int64_t block_q = source.Uniform(8, 24);
  source.Attribute("block_size_q", block_q);
  source.Attribute("block_stride_q", source.Uniform(1, block_q));
  source.Attribute("block_size_k", block);
  source.Attribute("block_stride_k", stride);
  source.Attribute("sliding_window", block * source.Uniform(0, 4));
  source.Attribute("sink", block * source.Uniform(0, 3));
  source.Dim("HV", source.Dim("HK", source.Uniform(1, 2)));
  source.Dim("H", *source.dims().Find("HK") * source.Uniform(1, 2));
  source.Dim("B", source.options().packed ? 1 : source.Uniform(1, 2));
}

}  // namespace

void RegisterHipAttention(Registry& registry);

void RegisterHipAttention(Registry& registry) {
  Operator& op = registry.AddOfParts(Schema(), Compose);
  op.random = Draw;
}

}  // namespace attnd
