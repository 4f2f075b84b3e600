#include <algorithm>
#include <array>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/part_call.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/optional_attribute.h"
#include "kernels/cores/softmax_composed.h"

namespace attnd {
namespace {

// Conditions of the schema.
constexpr char kDocuments[] =
    "pattern == 'full_document' || pattern == 'causal_document' || pattern == 'share_question' || "
    "pattern == 'causal_blockwise' || pattern == 'prefix_lm_document' || "
    "pattern == 'block_causal_document'";
constexpr char kWindows[] =
    "pattern == 'sliding_window' || pattern == 'sliding_window_causal' || "
    "pattern == 'global_sliding_window'";

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "masked_attention",
      .paper =
          "Long-Context Attention Benchmark: From Kernel Efficiency to Distributed Context "
          "Parallelism (2025)",
      .summary = "Softmax attention under a mask given by a rule, by columns or by rectangles",
      .core = "softmax",
      .definition =
          R"(Exact softmax attention under a mask that is given by a rule, by row ranges of each key, or by rectangles ("Long-Context Attention Benchmark", 2025). The patterns are written out in Allowed below; query i stands at position i + S - T, and d(x) is the document of token x.)",
      .inputs =
          {"q: float[B,T,H,K]", "k: float[B,S,HK,K]", "v: float[B,S,HV,V]",
           absl::StrCat(
               "cu_seqlens: int32[M+1] if ", kDocuments,
               "  # document m is tokens cu_seqlens[m] to cu_seqlens[m+1] - 1, of every row"),
           "startend_row_indices: int32[BM,HM,S,NR] if pattern == 'columns'  # the queries that "
           "each key is hidden from: causal r0.. or r0..r1; else (r0.., ..r1) or (r0..r1, r2..r3)",
           "q_ranges: int32[R,2] if pattern == 'slices'  # half-open ranges of queries",
           "k_ranges: int32[R,2] if pattern == 'slices'  # half-open ranges of keys",
           "slice_types: int32[R] if pattern == 'slices'  # 0 full, 1 causal, 2 inverse causal, 3 "
           "both"},
      .attributes =
          {"pattern: {full, causal, sliding_window, sliding_window_causal, full_document, "
           "causal_document, share_question, causal_blockwise, prefix_lm_causal, "
           "prefix_lm_document, global_sliding_window, block_causal_document, columns, slices}",
           "window_left: int? >= -1  # keys at most so many positions before; -1, absent: no limit",
           "window_right: int? >= -1  # keys at most so many positions after",
           "prefix_length: int? >= 0  # with the prefix patterns",
           "block_size: int? >= 1  # with block_causal_document",
           "global_size: int? >= 0  # with global_sliding_window; absent: 2 window_left",
           "causal: bool?  # with columns; absent: false", "scale: float = 1/sqrt(K)",
           "return_lse: bool = false"},
      .outputs = {"o: float[B,T,H,V]", "lse: float32[B,T,H] if return_lse  # ln of the sum"},
      .rules =
          {kQueryHeadsRule, "HV == HK  # as many value heads as key heads",
           "pattern == 'full' || pattern == 'causal' || pattern == 'sliding_window' || "
           "pattern == 'sliding_window_causal' || pattern == 'slices' || "
           "(pattern == 'columns' && !(has(causal) && causal)) || S == T"
           "  # as many keys as queries with this pattern",
           absl::StrCat("has(window_left) || has(window_right) -> ", kWindows,
                        "  # windows with their patterns"),
           "(pattern == 'prefix_lm_causal' || pattern == 'prefix_lm_document') == "
           "has(prefix_length)  # prefix_length with the prefix patterns, and only there",
           "(pattern == 'block_causal_document') == has(block_size)  # block_size with "
           "block_causal_document, and only there",
           "has(global_size) -> pattern == 'global_sliding_window'  # global_size with its pattern",
           "pattern == 'global_sliding_window' -> has(global_size) || (has(window_left) && "
           "window_left >= 0)  # global_size where window_left has no limit",
           "has(causal) -> pattern == 'columns'  # causal with columns",
           "has(cu_seqlens) -> M >= 1  # at least one document",
           "pattern == 'columns' -> (BM == 1 || BM == B) && H % HM == 0  # columns for every row "
           "or "
           "one for all, and heads that divide H",
           "pattern == 'columns' -> select(has(causal) && causal, NR == 1 || NR == 2, NR == 2 || "
           "NR "
           "== 4)  # 1 or 2 numbers for a causal column, else 2 or 4"},
      .may_be_zero = "S R",
      .per_row = "BM",
      .packs_sequences = false,
  };
  return schema;
}

absl::Status Error(const BoundCall& call, absl::string_view input, int64_t given, int64_t at,
                   absl::string_view expected) {
  return absl::InvalidArgumentError(absl::StrCat(call.spec().id(), ": ", input, ": given ", given,
                                                 " at element ", at, ", expected ", expected));
}

absl::Status CheckWithin(const BoundCall& call, absl::string_view input, int64_t most) {
  const Tensor& x = call.input(input);
  for (int64_t i = 0; x.defined() && i < x.num_elements(); ++i) {
    const int64_t value = x.data<int32_t>()[i];
    if (value < 0 || value > most) {
      return Error(call, input, value, i, absl::StrCat("0 to ", most));
    }
  }
  return absl::OkStatus();
}

absl::Status Check(const BoundCall& call) {
  const int64_t queries = call.dim("T"), keys = call.dim("S");
  for (const auto& [input, most] :
       {std::pair("cu_seqlens", queries), std::pair("startend_row_indices", queries),
        std::pair("q_ranges", queries), std::pair("k_ranges", keys),
        std::pair("slice_types", int64_t{3})}) {
    if (absl::Status s = CheckWithin(call, input, most); !s.ok()) return s;
  }
  if (const Tensor& offsets = call.input("cu_seqlens"); offsets.defined()) {
    const auto* at = offsets.data<int32_t>();
    const int64_t last = offsets.dim(0) - 1;
    if (at[0] != 0) return Error(call, "cu_seqlens", at[0], 0, "0 first");
    if (at[last] != queries) {
      return Error(call, "cu_seqlens", at[last], last, absl::StrCat("T=", queries, " last"));
    }
    for (int64_t i = 1; i <= last; ++i) {
      if (at[i] < at[i - 1]) {
        return Error(call, "cu_seqlens", at[i], i, "offsets that never decrease");
      }
    }
  }
  for (const char* input : {"q_ranges", "k_ranges"}) {
    const Tensor& ranges = call.input(input);
    for (int64_t i = 0; ranges.defined() && i < ranges.num_elements(); i += 2) {
      const auto* range = ranges.data<int32_t>() + i;
      if (range[1] < range[0])
        return Error(call, input, range[1], i + 1, "no end before its begin");
    }
  }
  return absl::OkStatus();
}

// The pairs of a named pattern.
class Pattern {
 public:
  Pattern(const BoundCall& call, const Tensor& offsets)
      : name_(call.choice("pattern")),
        shift_(call.dim("S") - call.dim("T")),
        left_(IntegerOr(call, "window_left", -1)),
        right_(IntegerOr(call, "window_right", -1)),
        prefix_(IntegerOr(call, "prefix_length", 0)),
        block_(IntegerOr(call, "block_size", 1)),
        global_(IntegerOr(call, "global_size", 2 * std::min(left_, call.dim("S")))) {
    for (int64_t m = 0; offsets.defined() && m + 1 < offsets.dim(0); ++m) {
      const auto* at = offsets.data<int32_t>() + m;
      document_.insert(document_.end(), static_cast<size_t>(at[1] - at[0]), m);
      start_.push_back(at[0]);
    }
  }

  bool Allowed(int64_t i, int64_t j) const {
    const bool causal = j <= i;
    if (name_ == "prefix_lm_causal") return causal || j < prefix_;
    if (document_.empty()) return Near(i + shift_ - j) || i < global_ || j < global_;
    const int64_t of_i = document_[static_cast<size_t>(i)],
                  of_j = document_[static_cast<size_t>(j)];
    const bool same = of_i == of_j;
    const int64_t last = static_cast<int64_t>(start_.size()) - 1;
    if (name_ == "full_document") return same;
    if (name_ == "causal_document") return same && causal;
    if (name_ == "share_question") return (same && causal) || (of_j == 0 && !same);
    if (name_ == "causal_blockwise") return (same && causal) || (of_i == last && of_j != last);
    if (name_ == "prefix_lm_document") {
      return same && (causal || j - start_[static_cast<size_t>(of_j)] < prefix_);
    }
    return same && j / block_ <= i / block_;  // block_causal_document
  }

 private:
  bool Near(int64_t distance) const {
    return (left_ < 0 || distance <= left_) && (right_ < 0 || -distance <= right_);
  }

  const std::string& name_;
  const int64_t shift_, left_, right_, prefix_, block_, global_;
  std::vector<int64_t> document_;  // Of every token.
  std::vector<int64_t> start_;     // Of every document.
};

// mask [T,S] of the slices.
void PaintSlices(const Tensor& q_ranges, const Tensor& k_ranges, const Tensor& types, int64_t keys,
                 bool* mask) {
  for (int64_t r = 0; r < types.num_elements(); ++r) {
    const auto *q = q_ranges.data<int32_t>() + 2 * r, *k = k_ranges.data<int32_t>() + 2 * r;
    const int32_t type = types.data<int32_t>()[r];
    const int64_t n = q[1] - q[0], c = k[1] - k[0];
    for (int64_t x = 0; x < n; ++x) {
      for (int64_t y = 0; y < c; ++y) {
        const bool upper = type == 0 || type == 2 || y - x <= c - n;
        const bool lower = type == 0 || type == 1 || y >= x;
        if (upper && lower) mask[(q[0] + x) * keys + k[0] + y] = true;
      }
    }
  }
}

// mask [BM,HM,T,S] of the columns [BM,HM,S,n].
void PaintColumns(const Tensor& columns, bool causal, int64_t queries, int64_t keys, bool* mask) {
  const int64_t n = columns.dim(3), lists = columns.dim(0) * columns.dim(1);
  for (int64_t list = 0; list < lists; ++list) {
    for (int64_t i = 0; i < queries; ++i) {
      for (int64_t j = 0; j < keys; ++j) {
        const auto* r = columns.data<int32_t>() + (list * keys + j) * n;
        bool hidden = causal && i < j;
        if (n == 1) hidden |= i >= r[0];
        if (n == 2 && causal) hidden |= r[0] <= i && i < r[1];
        if (n == 2 && !causal) hidden |= i >= r[0] || i < r[1];
        if (n == 4) hidden |= (r[0] <= i && i < r[1]) || (r[2] <= i && i < r[3]);
        mask[(list * queries + i) * keys + j] = !hidden;
      }
    }
  }
}

// bool [BM,HM,T,S]; [1,1,T,S] where nothing else is said.
absl::StatusOr<Tensor> DenseMask(Composer& c) {
  const BoundCall& call = c.call();
  const int64_t queries = c.dim("T"), keys = c.dim("S");
  const bool columns = c.choice("pattern") == "columns";
  absl::StatusOr<Tensor> mask = AllocateHost(
      DType::kBool, {columns ? c.dim("BM") : 1, columns ? c.dim("HM") : 1, queries, keys});
  if (!mask.ok()) return mask;
  bool* at = mask->data<bool>();
  const auto host = [&c](absl::string_view input) {
    return c.has(input) ? c.ToHost(c.In(input)) : Tensor();
  };
  const Tensor ranges = host("startend_row_indices"), offsets = host("cu_seqlens");
  const Tensor q_ranges = host("q_ranges"), k_ranges = host("k_ranges"),
               types = host("slice_types");
  if (!c.status().ok()) return c.status();
  if (columns) {
    PaintColumns(ranges, call.has_attribute("causal") && c.flag("causal"), queries, keys, at);
  } else if (c.choice("pattern") == "slices") {
    std::fill_n(at, mask->num_elements(), false);
    PaintSlices(q_ranges, k_ranges, types, keys, at);
  } else {
    const Pattern pattern(call, offsets);
    for (int64_t i = 0; i < queries; ++i) {
      for (int64_t j = 0; j < keys; ++j) at[i * keys + j] = pattern.Allowed(i, j);
    }
  }
  return mask;
}

absl::Status Compose(Composer& c) {
  const std::string& pattern = c.choice("pattern");
  const Array q = c.In("q"), k = c.In("k"), v = c.In("v");
  const auto attend = [&](const Array& q, const Array& k, const Array& v) {
    PartCall attention(c, "softmax_attention");
    attention.In("q", q).In("k", k).In("v", v).PassAttribute("scale").PassAttribute("return_lse");
    return attention;
  };
  if (pattern == "full" || pattern == "causal" || pattern == "sliding_window" ||
      pattern == "sliding_window_causal") {
    PartCall attention = attend(q, k, v);
    attention.Set("causal", pattern == "causal" || pattern == "sliding_window_causal");
    attention.PassAttribute("window_left").PassAttribute("window_right");
    c.Out("o", attention.Out("o"));
    c.Out("lse", attention.Out("lse"));
    return c.status();
  }
  const absl::StatusOr<Tensor> host = DenseMask(c);
  if (!host.ok()) return host.status();
  const Array mask = c.FromHost(*host);
  const int64_t heads = c.dim("H"), groups = host->dim(1);
  const Array wide_k = groups == 1 ? k : k.RepeatTo(2, heads);
  const Array wide_v = groups == 1 ? v : v.RepeatTo(2, heads);
  Array o, lse;
  for (int64_t g = 0; g < groups; ++g) {
    const auto cut = [&](const Array& x) {
      return x.Slice(2, g * x.dim(2) / groups, x.dim(2) / groups);
    };
    PartCall attention = groups == 1 ? attend(q, k, v) : attend(cut(q), cut(wide_k), cut(wide_v));
    const Array one = mask.Select(1, g);
    attention.In("mask", one.dim(0) == 1 ? one.Select(0, 0) : one);
    o = g == 0 ? attention.Out("o") : Concat(o, attention.Out("o"), 2);
    if (c.flag("return_lse")) {
      lse = g == 0 ? attention.Out("lse") : Concat(lse, attention.Out("lse"), 2);
    }
  }
  c.Out("o", o);
  c.Out("lse", lse);
  return c.status();
}

// What the pattern needs, at random.
class Drawer {
 public:
  explicit Drawer(RandomSource& source) : source_(source) {}

  void Run() {
    const std::string pattern = Pattern();
    const bool causal_columns = pattern == "columns" && Causal();
    const bool any_keys = pattern == "full" || pattern == "causal" || pattern == "sliding_window" ||
                          pattern == "sliding_window_causal" || pattern == "slices" ||
                          (pattern == "columns" && !causal_columns);
    queries_ = source_.Dim("T", source_.Uniform(1, 150));
    keys_ = source_.Dim(
        "S", any_keys && source_.Uniform(0, 1) == 0 ? source_.Uniform(1, 150) : queries_);
    source_.Dim("HV", source_.Dim("HK", source_.Uniform(1, 2)));
    heads_ = source_.Dim("H", *source_.dims().Find("HK") * source_.Uniform(1, 3));
    if (pattern.find("sliding") != std::string::npos) {
      source_.Attribute("window_left", source_.Uniform(0, 30));
      if (source_.Uniform(0, 1) == 0) source_.Attribute("window_right", source_.Uniform(-1, 30));
      if (pattern == "global_sliding_window" && source_.Uniform(0, 1) == 0) {
        source_.Attribute("global_size", source_.Uniform(0, 30));
      }
    }
    if (pattern.find("prefix") == 0) source_.Attribute("prefix_length", source_.Uniform(0, 40));
    if (pattern == "block_causal_document") source_.Attribute("block_size", source_.Uniform(1, 30));
    if (pattern.find("document") != std::string::npos || pattern == "share_question" ||
        pattern == "causal_blockwise") {
      Offsets();
    }
    if (pattern == "columns") Columns(causal_columns);
    if (pattern == "slices") Slices();
  }

 private:
  std::string Pattern() {
    const AttrSpec& attribute = *source_.spec().FindAttribute("pattern");
    const bool causal = source_.options().attributes.contains("causal");
    const auto last = static_cast<int64_t>(attribute.choices.size()) - 1;
    source_.Attribute(
        "pattern",
        causal ? "columns" : attribute.choices[static_cast<size_t>(source_.Uniform(0, last))]);
    return std::get<std::string>(*source_.request().attributes.Find("pattern"));
  }
  bool Causal() {
    source_.Attribute("causal", source_.Uniform(0, 1) == 0);
    return std::get<bool>(*source_.request().attributes.Find("causal"));
  }
  int32_t Row(int64_t most) { return static_cast<int32_t>(source_.Uniform(0, most)); }

  void Offsets() {
    std::vector<int32_t> offsets = {0, static_cast<int32_t>(queries_)};
    for (int64_t n = source_.Uniform(0, 4); n > 0; --n) offsets.push_back(Row(queries_));
    std::sort(offsets.begin(), offsets.end());
    source_.request().inputs.Set(
        "cu_seqlens", HostTensor<int32_t>({static_cast<int64_t>(offsets.size())}, offsets));
  }
  void Columns(bool causal) {
    const int64_t rows = source_.Dim("B", source_.Uniform(1, 2));
    const int64_t lists = source_.Dim("BM", source_.Uniform(0, 1) == 0 ? 1 : rows);
    const int64_t heads = source_.Dim("HM", source_.Uniform(0, 1) == 0 ? 1 : heads_);
    const int64_t numbers = source_.Dim("NR", (causal ? 1 : 2) << source_.Uniform(0, 1));
    std::vector<int32_t> values(static_cast<size_t>(lists * heads * keys_ * numbers));
    for (int32_t& value : values) value = Row(queries_);
    source_.request().inputs.Set("startend_row_indices",
                                 HostTensor<int32_t>({lists, heads, keys_, numbers}, values));
  }
  void Slices() {
    const int64_t count = source_.Dim("R", source_.Uniform(1, 6));
    std::vector<int32_t> q, k, types;
    for (int64_t r = 0; r < count; ++r) {
      for (auto& [ranges, most] : {std::pair(&q, queries_), std::pair(&k, keys_)}) {
        const int32_t a = Row(most), b = Row(most);
        ranges->push_back(std::min(a, b));
        ranges->push_back(std::max(a, b));
      }
      types.push_back(Row(3));
    }
    source_.request().inputs.Set("q_ranges", HostTensor<int32_t>({count, 2}, q));
    source_.request().inputs.Set("k_ranges", HostTensor<int32_t>({count, 2}, k));
    source_.request().inputs.Set("slice_types", HostTensor<int32_t>({count}, types));
  }

  RandomSource& source_;
  int64_t queries_ = 0, keys_ = 0, heads_ = 0;
};

bool IsCausal(const BoundCall& call) {
  const std::string& pattern = call.choice("pattern");
  if (pattern == "columns") return call.has_attribute("causal") && call.flag("causal");
  const bool causal = pattern == "causal" || pattern == "sliding_window_causal" ||
                      pattern == "causal_document" || pattern == "share_question" ||
                      pattern == "causal_blockwise";
  return causal && call.dim("S") >= call.dim("T");
}

}  // namespace

void RegisterMaskedAttention(Registry& registry);

void RegisterMaskedAttention(Registry& registry) {
  Operator& op = registry.AddOfParts(Schema(), Compose);
  op.check = Check;
  op.random = [](RandomSource& source) { Drawer(source).Run(); };
  op.causal = IsCausal;
}

}  // namespace attnd
