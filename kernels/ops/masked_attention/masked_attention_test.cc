// What attention under masks by rule, by columns and by rectangles promises.
#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "kernels/testing/dense_attention.h"
#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

// More than two tiles of queries, documents that end within one, and an empty document.
constexpr int64_t kB = 2, kT = 150, kH = 4, kHK = 2, kK = 8, kV = 6;
constexpr int64_t kLeft = 17, kRight = 9, kPrefix = 11, kBlock = 8, kGlobal = 13;

struct Slice {
  int64_t q0, q1, k0, k1;
  int32_t type;
};

// A pattern in the page's forms.
struct Form {
  std::string pattern;
  Attributes attributes;
  bool documents = false;
  std::function<bool(int64_t, int64_t)> allowed;
  bool causal_columns = false;
  int64_t numbers = 1;
  std::function<std::vector<int64_t>(int64_t)> columns;
  std::vector<Slice> slices;
};

class MaskedAttentionTest : public PropertyTest {
 protected:
  CallBuilder Masked(const std::string& pattern) const {
    return Call("masked_attention")
        .In("q", q_)
        .In("k", k_)
        .In("v", v_)
        .Set("pattern", pattern)
        .Set("return_lse", true);
  }
  CallBuilder Named(const Form& form) const {
    CallBuilder call = Masked(form.pattern);
    for (const auto& [name, value] : form.attributes) call.Set(name, value);
    if (form.documents) call.Offsets(Offsets());
    return call;
  }
  CallBuilder ByColumns(const Form& form) const {
    std::vector<int32_t> values;
    for (int64_t j = 0; j < kT; ++j) {
      for (const int64_t value : form.columns(j)) values.push_back(static_cast<int32_t>(value));
    }
    return Masked("columns")
        .Set("causal", form.causal_columns)
        .Int("startend_row_indices", {1, 1, kT, form.numbers}, values);
  }
  CallBuilder BySlices(const std::vector<Slice>& slices) const {
    std::vector<int32_t> q, k, types;
    for (const Slice& slice : slices) {
      for (const int64_t x : {slice.q0, slice.q1}) q.push_back(static_cast<int32_t>(x));
      for (const int64_t x : {slice.k0, slice.k1}) k.push_back(static_cast<int32_t>(x));
      types.push_back(slice.type);
    }
    const auto n = static_cast<int64_t>(slices.size());
    return Masked("slices")
        .Int("q_ranges", {n, 2}, q)
        .Int("k_ranges", {n, 2}, k)
        .Int("slice_types", {n}, types);
  }
  CallBuilder Dense(const std::function<bool(int64_t, int64_t)>& allowed) const {
    Array mask({kT, kT});
    for (int64_t i = 0; i < kT; ++i) {
      for (int64_t j = 0; j < kT; ++j) mask(i, j) = allowed(i, j) ? 1 : 0;
    }
    return Call("softmax_attention")
        .In("q", q_)
        .In("k", k_)
        .In("v", v_)
        .Bool("mask", mask)
        .Set("return_lse", true);
  }
  Attended Outputs(const CallBuilder& call) const {
    const Evaluation result = Run(call);
    return {Array(Output(result, "o")), Array(Output(result, "lse"))};
  }
  void ExpectEqual(const Attended& a, const Attended& b) const {
    ExpectClose(a.o, b.o);
    for (size_t i = 0; i < b.lse.values().size(); ++i) {
      const double x = a.lse.values()[i], y = b.lse.values()[i];
      if (x != y) {
        EXPECT_NEAR(x, y, 10 * tolerance()) << i;
      }
    }
  }

  static std::vector<int32_t> Offsets() { return {0, 20, 20, 71, 150}; }
  static int64_t Document(int64_t x) { return x < 20 ? 0 : x < 71 ? 2 : 3; }
  static int64_t Start(int64_t x) { return Offsets()[Document(x)]; }
  static int64_t End(int64_t x) { return Offsets()[Document(x) + 1]; }
  static bool Same(int64_t i, int64_t j) { return Document(i) == Document(j); }
  std::vector<Form> Forms() const;

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kHK, kK}),
              v_ = Normal({kB, kT, kHK, kV});
};
INSTANTIATE_PROPERTIES(MaskedAttentionTest);

std::vector<Form> MaskedAttentionTest::Forms() const {
  const auto clip = [](int64_t x) { return std::clamp<int64_t>(x, 0, kT); };
  using Row = std::vector<int64_t>;
  // Slices of a band: causal and inverse causal both, in steps that a rectangle of both can have.
  std::vector<Slice> band, one_sided;
  for (int64_t i = 0; i < kT; ++i) {
    band.push_back({i, i + 1, clip(i - kLeft), clip(i + kRight + 1), 0});
    one_sided.push_back({i, i + 1, clip(i - kLeft), i + 1, 0});
  }
  const std::vector<Slice> documents = {
      {0, 20, 0, 20, 0}, {20, 71, 20, 71, 0}, {71, 150, 71, 150, 0}};
  std::vector<Slice> triangles = documents;
  for (Slice& slice : triangles) slice.type = 1;
  const auto with = [](std::vector<Slice> slices, const std::vector<Slice>& more) {
    slices.insert(slices.end(), more.begin(), more.end());
    return slices;
  };
  std::vector<Slice> blocks;
  for (int64_t i = 0; i < kT; ++i) {
    const int64_t end = std::min(End(i), (i / kBlock + 1) * kBlock);
    blocks.push_back({i, i + 1, Start(i), end, 0});
  }
  Attributes window, global, prefix, block;
  window.Set("window_left", kLeft);
  window.Set("window_right", kRight);
  global = window;
  global.Set("global_size", kGlobal);
  prefix.Set("prefix_length", kPrefix);
  block.Set("block_size", kBlock);
  Attributes left;
  left.Set("window_left", kLeft);
  const auto near = [](int64_t i, int64_t j) { return i - j <= kLeft && j - i <= kRight; };
  return {
      {"full",
       {},
       false,
       [](int64_t, int64_t) { return true; },
       false,
       2,
       [](int64_t) {
         return Row{kT, 0};
       },
       {{0, kT, 0, kT, 0}}},
      {"causal",
       {},
       false,
       [](int64_t i, int64_t j) { return j <= i; },
       true,
       1,
       [](int64_t) { return Row{kT}; },
       {{0, kT, 0, kT, 1}}},
      {"sliding_window", window, false, near, false, 2,
       [&](int64_t j) {
         return Row{std::min(j + kLeft + 1, kT), std::max<int64_t>(j - kRight, 0)};
       },
       band},
      {"sliding_window_causal", left, false,
       [](int64_t i, int64_t j) { return j <= i && i - j <= kLeft; }, true, 1,
       [](int64_t j) { return Row{std::min(j + kLeft + 1, kT)}; }, one_sided},
      {"full_document",
       {},
       true,
       Same,
       false,
       2,
       [](int64_t j) {
         return Row{End(j), Start(j)};
       },
       documents},
      {"causal_document",
       {},
       true,
       [](int64_t i, int64_t j) { return Same(i, j) && j <= i; },
       true,
       1,
       [](int64_t j) { return Row{End(j)}; },
       triangles},
      {"share_question",
       {},
       true,
       [](int64_t i, int64_t j) {
         return (Same(i, j) && j <= i) || (Document(j) == 0 && Document(i) != 0);
       },
       true,
       1,
       [](int64_t j) { return Row{Document(j) == 0 ? kT : End(j)}; },
       with(triangles, {{20, kT, 0, 20, 0}})},
      {"causal_blockwise",
       {},
       true,
       [](int64_t i, int64_t j) {
         return (Same(i, j) && j <= i) || (Document(i) == 3 && Document(j) != 3);
       },
       true,
       2,
       [](int64_t j) {
         return Document(j) == 3 ? Row{kT, kT} : Row{End(j), 71};
       },
       with(triangles, {{71, kT, 0, 71, 0}})},
      {"prefix_lm_causal",
       prefix,
       false,
       [](int64_t i, int64_t j) { return j <= i || j < kPrefix; },
       false,
       2,
       [](int64_t j) {
         return Row{kT, j < kPrefix ? 0 : j};
       },
       {{0, kT, 0, kT, 1}, {0, kT, 0, kPrefix, 0}}},
      {"prefix_lm_document", prefix, true,
       [](int64_t i, int64_t j) { return Same(i, j) && (j <= i || j - Start(j) < kPrefix); }, false,
       2,
       [](int64_t j) {
         return Row{End(j), j - Start(j) < kPrefix ? Start(j) : j};
       },
       with(triangles, {{0, 20, 0, 11, 0}, {20, 71, 20, 31, 0}, {71, 150, 71, 82, 0}})},
      {"global_sliding_window", global, false,
       [near](int64_t i, int64_t j) { return near(i, j) || i < kGlobal || j < kGlobal; }, false, 4,
       [](int64_t j) {
         if (j < kGlobal) return Row{kT, kT, 0, 0};
         return Row{std::max(std::min(j + kLeft + 1, kT), kGlobal), kT, kGlobal,
                    std::max(j - kRight, kGlobal)};
       },
       with(band, {{0, kGlobal, 0, kT, 0}, {0, kT, 0, kGlobal, 0}})},
      {"block_causal_document", block, true,
       [](int64_t i, int64_t j) { return Same(i, j) && j < (i / kBlock + 1) * kBlock; }, false, 2,
       [](int64_t j) {
         return Row{End(j), std::max(Start(j), j / kBlock * kBlock)};
       },
       blocks},
  };
}

TEST_P(MaskedAttentionTest, EveryPatternIsItsColumnsItsSlicesAndItsDenseMask) {
  for (const Form& form : Forms()) {
    SCOPED_TRACE(form.pattern);
    const Attended dense = Outputs(Dense(form.allowed));
    ExpectEqual(Outputs(Named(form)), dense);
    ExpectEqual(Outputs(ByColumns(form)), dense);
    ExpectEqual(Outputs(BySlices(form.slices)), dense);
  }
}

TEST_P(MaskedAttentionTest, TheLimitsOfPrefixesAndDocuments) {
  const auto is = [&](const CallBuilder& a, const CallBuilder& b) {
    ExpectEqual(Outputs(a), Outputs(b));
  };
  const auto prefix = [&](const char* pattern, int64_t length) {
    return Masked(pattern).Set("prefix_length", length);
  };
  is(prefix("prefix_lm_causal", 0), Masked("causal"));
  is(prefix("prefix_lm_causal", kT), Masked("full"));
  is(prefix("prefix_lm_document", 0).Offsets(Offsets()),
     Masked("causal_document").Offsets(Offsets()));
  is(prefix("prefix_lm_document", kT).Offsets(Offsets()),
     Masked("full_document").Offsets(Offsets()));
  const std::vector<int32_t> one = {0, static_cast<int32_t>(kT)};
  is(Masked("full_document").Offsets(one), Masked("full"));
  is(Masked("causal_document").Offsets(one), Masked("causal"));
  is(Masked("share_question").Offsets(one), Masked("causal"));
  is(Masked("causal_blockwise").Offsets(one), Masked("causal"));
  is(prefix("prefix_lm_document", 5).Offsets(one), prefix("prefix_lm_causal", 5));
  is(Masked("block_causal_document").Offsets(one).Set("block_size", int64_t{1}), Masked("causal"));
  is(Masked("global_sliding_window").Set("window_left", int64_t{4}),
     Masked("global_sliding_window").Set("window_left", int64_t{4}).Set("global_size", int64_t{8}));
}

TEST_P(MaskedAttentionTest, AWindowIsSlidingWindowAttention) {
  ExpectSame(Masked("sliding_window_causal").Set("window_left", int64_t{8}),
             Call("sliding_window_attention")
                 .In("q", q_)
                 .In("k", k_)
                 .In("v", v_)
                 .Set("window", int64_t{9})
                 .Set("return_lse", true));
}

TEST_P(MaskedAttentionTest, MovingWholeDocumentsMovesTheirRows) {
  // Documents 3, 0, 2 in the place of 0, 2, 3.
  std::vector<int64_t> order;
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{71, 150}, {0, 20}, {20, 71}}) {
    for (int64_t t = begin; t < end; ++t) order.push_back(t);
  }
  for (const char* pattern : {"full_document", "causal_document"}) {
    const Array moved = Out(Masked(pattern)
                                .In("q", q_.Take(1, order))
                                .In("k", k_.Take(1, order))
                                .In("v", v_.Take(1, order))
                                .Offsets({0, 79, 99, 150}));
    ExpectClose(moved, Out(Masked(pattern).Offsets(Offsets())).Take(1, order));
  }
}

TEST_P(MaskedAttentionTest, DisjointSlicesMergeToTheirUnion) {
  const std::vector<Slice> a = {{0, 90, 0, 40, 1}, {30, 150, 60, 110, 2}},
                           b = {{10, 150, 110, 150, 3}};
  std::vector<Slice> all = a;
  all.push_back(b[0]);
  const Attended x = Outputs(BySlices(a)), y = Outputs(BySlices(b));
  const auto stack = [](const Array& x, const Array& y) {
    Dims shape = x.shape();
    shape.insert(shape.begin(), 1);
    return Concatenate({x.Reshape(shape), y.Reshape(shape)}, 0);
  };
  ExpectEqual(Outputs(Call("merge_attention")
                          .In("o_parts", stack(x.o, y.o))
                          .In("lse_parts", stack(x.lse, y.lse))),
              Outputs(BySlices(all)));
}

// Equal scores: the sum of exponentials counts keys.
TEST_P(MaskedAttentionTest, SlicesHaveTheirAreas) {
  const auto area = [&](const Slice& slice) {
    const CallBuilder call = BySlices({slice}).In("q", Array(q_.shape()));
    double count = 0;
    for (const Array all = Out(call, "lse"); const double lse : all.values())
      count += std::exp(lse);
    return static_cast<int64_t>(std::lround(count / static_cast<double>(kB * kH)));
  };
  const int64_t n = 70, c = 100;
  EXPECT_EQ(area({5, 5 + n, 20, 20 + c, 0}), n * c);
  EXPECT_EQ(area({5, 5 + n, 20, 20 + c, 1}), (2 * c - n + 1) * n / 2);
  EXPECT_EQ(area({5, 5 + n, 20, 20 + c, 2}), (2 * c - n + 1) * n / 2);
  EXPECT_EQ(area({5, 5 + n, 20, 20 + c, 3}), (c - n + 1) * n);
}

TEST_P(MaskedAttentionTest, FewerOrMoreKeysThanQueries) {
  for (const int64_t keys : {90, 150}) {
    for (const int64_t queries : {70, 150}) {
      const auto cut = [&](CallBuilder call) {
        return call.In("q", q_.Slice(1, 0, queries))
            .In("k", k_.Slice(1, 0, keys))
            .In("v", v_.Slice(1, 0, keys));
      };
      const int64_t shift = keys - queries;
      const auto is = [&](const CallBuilder& call,
                          const std::function<bool(int64_t, int64_t)>& near) {
        ExpectEqual(
            Outputs(cut(call)),
            DenseAttention(q_.Slice(1, 0, queries), k_.Slice(1, 0, keys), v_.Slice(1, 0, keys),
                           [&](int64_t i, int64_t j) { return near(i + shift, j); }));
      };
      is(Masked("full"), [](int64_t, int64_t) { return true; });
      is(Masked("causal"), [](int64_t p, int64_t j) { return j <= p; });
      is(Masked("sliding_window").Set("window_left", kLeft).Set("window_right", kRight),
         [](int64_t p, int64_t j) { return p - j <= kLeft && j - p <= kRight; });
      is(Masked("sliding_window").Set("window_right", kRight),
         [](int64_t p, int64_t j) { return j - p <= kRight; });
    }
  }
}

// Lists of each row of the batch and of groups of heads.
TEST_P(MaskedAttentionTest, ColumnsOfRowsAndHeads) {
  constexpr int64_t kHM = 2;
  const Array draw = Uniform({kB, kHM, kT, 4}, 0, kT);
  std::vector<int32_t> values;
  for (const double x : draw.values()) values.push_back(static_cast<int32_t>(x));
  const Attended all =
      Outputs(Masked("columns").Int("startend_row_indices", {kB, kHM, kT, 4}, values));
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t h = 0; h < kH; ++h) {
      const int64_t list = b * kHM + h / (kH / kHM);
      const auto one = [&](const Array& x) {
        return x.Slice(0, b, 1).Slice(2, h * x.dim(2) / kH, 1);
      };
      const Attended expected =
          DenseAttention(one(q_), one(k_), one(v_), [&](int64_t i, int64_t j) {
            const int32_t* r = &values[(list * kT + j) * 4];
            return !(r[0] <= i && i < r[1]) && !(r[2] <= i && i < r[3]);
          });
      ExpectClose(all.o.Slice(0, b, 1).Slice(2, h, 1), expected.o);
    }
  }
}

TEST_P(MaskedAttentionTest, LaterTokensDoNotReachCausalPatterns) {
  for (const Form& form : Forms()) {
    const bool causal = form.causal_columns;
    if (!causal) continue;
    SCOPED_TRACE(form.pattern);
    Array k = k_, v = v_;
    for (int64_t t = 100; t < kT; ++t) {
      for (int64_t c = 0; c < kK; ++c) k(1, t, 1, c) = std::nan("");
      for (int64_t c = 0; c < kV; ++c) v(1, t, 1, c) = INFINITY;
    }
    ExpectClose(Out(Named(form).In("k", k).In("v", v)).Slice(1, 0, 100),
                Out(Named(form)).Slice(1, 0, 100));
  }
}

TEST_P(MaskedAttentionTest, RefusesWhatDoesNotFitThePattern) {
  const auto pattern = [&](const char* name) { return Masked(name); };
  ExpectRefused(pattern("diagonal"), "pattern: given 'diagonal'");
  ExpectRefused(Call("masked_attention").In("q", q_).In("k", k_).In("v", v_), "pattern");
  ExpectRefused(pattern("causal_document"), "cu_seqlens: missing");
  ExpectRefused(pattern("causal").Offsets(Offsets()), "cu_seqlens: given, expected only if");
  ExpectRefused(pattern("causal").Set("window_left", int64_t{3}), "windows with their patterns");
  ExpectRefused(pattern("sliding_window").Set("window_left", int64_t{-2}), "window_left: given -2");
  ExpectRefused(pattern("prefix_lm_causal"), "prefix_length with the prefix patterns");
  ExpectRefused(pattern("full").Set("prefix_length", int64_t{3}), "prefix_length with the prefix");
  ExpectRefused(pattern("block_causal_document").Offsets(Offsets()), "block_size with");
  ExpectRefused(pattern("global_sliding_window"), "global_size where window_left has no limit");
  ExpectRefused(pattern("full").Set("global_size", int64_t{3}), "global_size with its pattern");
  ExpectRefused(pattern("full").Set("causal", true), "causal with columns");
  ExpectRefused(pattern("prefix_lm_causal")
                    .Set("prefix_length", int64_t{3})
                    .In("k", k_.Slice(1, 0, 9))
                    .In("v", v_.Slice(1, 0, 9)),
                "as many keys as queries");
  for (const std::vector<int32_t>& offsets :
       {std::vector<int32_t>{0}, {1, 150}, {0, 149}, {0, 90, 80, 150}, {0, 151}, {0, -1, 150}}) {
    ExpectRefused(pattern("causal_document").Offsets(offsets),
                  offsets.size() == 1 ? "M" : "cu_seqlens: given");
  }
  const auto columns = [&](int64_t n, int32_t value, bool causal) {
    return pattern("columns")
        .Set("causal", causal)
        .Int("startend_row_indices", {1, 1, kT, n},
             std::vector<int32_t>(static_cast<size_t>(kT * n), value));
  };
  ExpectRefused(columns(4, 0, true), "1 or 2 numbers for a causal column");
  ExpectRefused(columns(1, 0, false), "1 or 2 numbers for a causal column");
  ExpectRefused(columns(2, 151, false), "startend_row_indices: given 151");
  ExpectRefused(columns(2, -1, false), "startend_row_indices: given -1");
  ExpectRefused(pattern("columns").Int("startend_row_indices", {1, 3, kT, 2},
                                       std::vector<int32_t>(static_cast<size_t>(3 * kT * 2))),
                "heads that divide H");
  ExpectRefused(BySlices({{0, 151, 0, 9, 0}}), "q_ranges: given 151");
  ExpectRefused(BySlices({{0, 9, 8, 4, 0}}), "k_ranges: given 4");
  ExpectRefused(BySlices({{0, 9, 0, 4, 4}}), "slice_types: given 4");
  ExpectRefused(pattern("slices"), "q_ranges: missing");
}

}  // namespace
}  // namespace attnd::testing
