#include <algorithm>
#include <limits>

#include "kernels/core/registry.h"
#include "kernels/cores/block_lists.h"
#include "kernels/cores/softmax.h"

namespace attnd {
namespace {

// A tile of queries stays within a block of queries, so that one list serves it.
class BlockRule final : public cpu::SoftmaxRule {
 public:
  BlockRule(const BoundCall& call, Tensor lists)
      : lists_(std::move(lists)),
        queries_(call.integer("block_size_q")),
        keys_(std::min(call.integer("block_size_k"), std::max<int64_t>(1, call.dim("S")))),
        heads_per_list_(call.dim("H") / call.dim("HB")),
        causal_(call.flag("causal")),
        sink_(call.integer("sink")),
        window_(std::min(call.integer("window"), call.dim("S") + call.dim("T"))) {}

  int64_t TileLength(const cpu::SoftmaxPlace& /*place*/, int64_t begin) const override {
    return std::min(kMaxQueries, queries_ - begin % queries_);
  }

  void ForEachRun(const cpu::SoftmaxPlace& place, int64_t begin, int64_t count,
                  absl::FunctionRef<void(const cpu::KeyRun&)> visit) const override {
    const bool* listed = List(place, begin);
    const int64_t first = begin + place.keys - place.queries;  // Position of the first query.
    const int64_t last = first + count - 1;
    const int64_t end = causal_ ? std::min(place.keys, last + 1) : place.keys;
    // Neighbouring runs of a kind become one.
    cpu::KeyRun open{0, 0, false};
    const auto add = [&](int64_t from, int64_t to, bool full) {
      if (from >= to) return;
      if (open.length > 0 && open.begin + open.length == from && open.full == full) {
        open.length += to - from;
        return;
      }
      if (open.length > 0) visit(open);
      open = cpu::KeyRun{from, to - from, full};
    };
    for (int64_t from = 0; from < end; from += keys_) {
      const int64_t to = std::min(end, from + keys_);
      if (listed[from / keys_]) {
        // Keys up to the first query are there for all of the tile.
        const int64_t common = causal_ ? std::clamp(first + 1, from, to) : to;
        add(from, common, true);
        add(common, to, false);
      } else if (causal_) {
        const int64_t sink_end = std::clamp(sink_, from, to);
        add(from, sink_end, false);
        if (window_ > 0) add(std::clamp(first - window_ + 1, sink_end, to), to, false);
      }
    }
    if (open.length > 0) visit(open);
  }

  void Mask(const cpu::SoftmaxPlace& place, int64_t query, int64_t key, int64_t count,
            float* scores) const override {
    const bool* listed = List(place, query);
    const int64_t position = query + place.keys - place.queries;
    for (int64_t j = key; j < key + count; ++j) {
      const bool near = causal_ && (j < sink_ || position - j < window_);
      if ((listed[j / keys_] || near) && (!causal_ || j <= position)) continue;
      scores[j - key] = -std::numeric_limits<float>::infinity();
    }
  }

 private:
  const bool* List(const cpu::SoftmaxPlace& place, int64_t query) const {
    const int64_t row = lists_.dim(0) == 1 ? 0 : place.sequence;
    const int64_t list =
        (row * lists_.dim(1) + place.head / heads_per_list_) * lists_.dim(2) + query / queries_;
    return lists_.data<bool>() + list * lists_.dim(3);
  }

  const Tensor lists_;  // bool [BM,HB,MB,NB]
  const int64_t queries_;
  const int64_t keys_;
  const int64_t heads_per_list_;
  const bool causal_;
  const int64_t sink_;
  const int64_t window_;
};

absl::Status Run(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  absl::StatusOr<Tensor> lists = ListedBlocks(call, call.input("block_indices"),
                                              call.input("block_counts"), call.input("block_mask"));
  if (!lists.ok()) return lists.status();
  const BlockRule rule(call, *std::move(lists));
  std::vector<Sequence> keys = call.sequences();
  if (!call.packed()) {
    for (Sequence& sequence : keys) sequence.length = call.dim("S");
  }
  cpu::SoftmaxCall core;
  core.q = call.input("q");
  core.k = call.input("k");
  core.v = call.input("v");
  core.o = *outputs.Find("o");
  if (const Tensor* lse = outputs.Find("lse")) core.lse = *lse;
  core.queries = call.sequences();
  core.keys = keys;
  core.scale = call.real("scale");
  core.rule = &rule;
  return cpu::Softmax(backend, core);
}

}  // namespace

void RegisterBlockSparseAttentionCpu(Registry& registry);

void RegisterBlockSparseAttentionCpu(Registry& registry) {
  registry.AddKernel("block_sparse_attention",
                     {"stream_cpu", Device::kCpu, [](const BoundCall&) { return true; }, Run});
}

}  // namespace attnd
