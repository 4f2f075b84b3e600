#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "kernels/core/registry.h"
#include "kernels/cores/mask_rules.h"
#include "kernels/cores/optional_attribute.h"

namespace attnd {
namespace {

using cpu::ColumnRule;
using cpu::MaskSlice;

// Every pattern but "columns" as a union of rectangles cut by diagonals; their number follows that
// of documents, blocks or slices.
class Slices {
 public:
  explicit Slices(const BoundCall& call)
      : call_(call),
        queries_(call.dim("T")),
        keys_(call.dim("S")),
        pattern_(call.choice("pattern")) {}

  std::vector<MaskSlice> Of() {
    const int64_t shift = keys_ - queries_;
    if (pattern_ == "full") Add(0, queries_, 0, keys_);
    if (pattern_ == "causal") Add(0, queries_, 0, keys_, -MaskSlice::kFar, shift);
    if (pattern_ == "sliding_window" || pattern_ == "global_sliding_window") Band(shift, Right());
    if (pattern_ == "sliding_window_causal") Band(shift, 0);
    if (pattern_ == "global_sliding_window") Globals();
    if (pattern_ == "prefix_lm_causal") {
      Add(0, queries_, 0, keys_, -MaskSlice::kFar, 0);
      Add(0, queries_, 0, std::min(keys_, call_.integer("prefix_length")));
    }
    if (pattern_ == "slices") Given();
    if (call_.has("cu_seqlens")) Documents();
    return std::move(slices_);
  }

 private:
  void Add(int64_t first_query, int64_t end_query, int64_t first_key, int64_t end_key,
           int64_t least = -MaskSlice::kFar, int64_t most = MaskSlice::kFar) {
    slices_.push_back({first_query, end_query, first_key, end_key, least, most});
  }
  void Causal(int64_t begin, int64_t end) { Add(begin, end, begin, end, -MaskSlice::kFar, 0); }

  // A window may be as long as an int64 is.
  int64_t Limit(const char* name) const {
    const int64_t window = IntegerOr(call_, name, -1);
    return window < 0 ? MaskSlice::kFar : std::min(window, queries_ + keys_);
  }
  int64_t Right() const { return Limit("window_right"); }
  void Band(int64_t shift, int64_t right) {
    Add(0, queries_, 0, keys_, shift - Limit("window_left"), shift + right);
  }

  void Globals() {
    const int64_t window = std::min(IntegerOr(call_, "window_left", 0), keys_);
    const int64_t global = std::min(IntegerOr(call_, "global_size", 2 * window), keys_);
    Add(0, global, 0, keys_);
    Add(0, queries_, 0, global);
  }

  void Documents() {
    const auto* offsets = call_.input("cu_seqlens").data<int32_t>();
    const int64_t documents = call_.dim("M");
    for (int64_t m = 0; m < documents; ++m) {
      const int64_t begin = offsets[m], end = offsets[m + 1];
      if (pattern_ == "full_document") {
        Add(begin, end, begin, end);
      } else if (pattern_ == "block_causal_document") {
        Blocks(begin, end);
      } else {
        Causal(begin, end);
      }
      if (pattern_ == "prefix_lm_document") {
        Add(begin, end, begin, begin + std::min(end - begin, call_.integer("prefix_length")));
      }
    }
    const int64_t last = offsets[documents - 1];
    if (pattern_ == "share_question") Add(offsets[1], queries_, 0, offsets[1]);
    if (pattern_ == "causal_blockwise") Add(last, queries_, 0, last);
  }

  // The queries of every block of the document see it up to the block's end.
  void Blocks(int64_t begin, int64_t end) {
    const int64_t block = std::min(call_.integer("block_size"), std::max<int64_t>(1, queries_));
    for (int64_t at = begin; at < end;) {
      const int64_t next = std::min(end, (at / block + 1) * block);
      Add(at, next, begin, next);
      at = next;
    }
  }

  void Given() {
    const auto* q = call_.input("q_ranges").data<int32_t>();
    const auto* k = call_.input("k_ranges").data<int32_t>();
    const auto* types = call_.input("slice_types").data<int32_t>();
    for (int64_t r = 0; r < call_.dim("R"); ++r, q += 2, k += 2) {
      // Causal: the lower right corners meet; inverse: the upper left ones.
      const bool causal = types[r] == 1 || types[r] == 3, inverse = types[r] >= 2;
      Add(q[0], q[1], k[0], k[1], inverse ? int64_t{k[0]} - q[0] : -MaskSlice::kFar,
          causal ? int64_t{k[1]} - q[1] : MaskSlice::kFar);
    }
  }

  const BoundCall& call_;
  const int64_t queries_, keys_;
  const std::string& pattern_;
  std::vector<MaskSlice> slices_;
};

ColumnRule Columns(const BoundCall& call) {
  const Tensor& given = call.input("startend_row_indices");
  const int64_t numbers = call.dim("NR"), columns = given.num_elements() / numbers;
  const auto queries = static_cast<int32_t>(call.dim("T"));
  const bool causal = call.has_attribute("causal") && call.flag("causal");
  std::vector<ColumnRule::Ranges> ranges(static_cast<size_t>(columns));
  for (int64_t c = 0; c < columns; ++c) {
    const auto* r = given.data<int32_t>() + c * numbers;
    ColumnRule::Ranges& range = ranges[static_cast<size_t>(c)];
    if (causal) {
      const auto key = static_cast<int32_t>(c % call.dim("S"));
      range = {{r[0], 0}, {numbers == 1 ? queries : r[1], key}};
    } else if (numbers == 2) {
      range = {{r[0], 0}, {queries, r[1]}};
    } else {
      range = {{r[0], r[2]}, {r[1], r[3]}};
    }
  }
  return {std::move(ranges), call.dim("BM"), call.dim("HM"), call.dim("S"), call.dim("H")};
}

absl::Status Run(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  std::vector<Sequence> keys = call.sequences();
  for (Sequence& sequence : keys) sequence.length = call.dim("S");
  cpu::SoftmaxCall core;
  core.q = call.input("q");
  core.k = call.input("k");
  core.v = call.input("v");
  core.o = *outputs.Find("o");
  if (const Tensor* lse = outputs.Find("lse")) core.lse = *lse;
  core.queries = call.sequences();
  core.keys = keys;
  core.scale = call.real("scale");
  if (call.choice("pattern") == "columns") {
    const ColumnRule rule = Columns(call);
    core.rule = &rule;
    return cpu::Softmax(backend, core);
  }
  const cpu::SliceRule rule(Slices(call).Of(), call.dim("T"));
  core.rule = &rule;
  return cpu::Softmax(backend, core);
}

}  // namespace

void RegisterMaskedAttentionCpu(Registry& registry);

void RegisterMaskedAttentionCpu(Registry& registry) {
  registry.AddKernel("masked_attention",
                     {"stream_cpu", Device::kCpu, [](const BoundCall&) { return true; }, Run});
}

}  // namespace attnd
