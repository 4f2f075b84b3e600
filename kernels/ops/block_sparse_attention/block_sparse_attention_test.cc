// What block-sparse attention promises: lists, masks, sinks and windows.
#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "kernels/testing/dense_attention.h"
#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 83, kH = 4, kHK = 2, kK = 16, kV = 12;
constexpr int64_t kBQ = 16, kBK = 8, kMB = (kT + kBQ - 1) / kBQ, kNB = (kT + kBK - 1) / kBK;

class BlockSparseTest : public PropertyTest {
 protected:
  // Lists by [query block]; the same for every batch row and head.
  using Lists = std::vector<std::vector<int32_t>>;

  CallBuilder Sparse() const { return Sparse(q_, k_, v_); }
  CallBuilder Sparse(const Array& q, const Array& k, const Array& v) const {
    return Call("block_sparse_attention")
        .In("q", q)
        .In("k", k)
        .In("v", v)
        .Set("block_size_q", kBQ)
        .Set("block_size_k", kBK);
  }
  static CallBuilder With(CallBuilder call, const Lists& lists, int64_t heads = 1) {
    size_t longest = 0;
    for (const auto& list : lists) longest = std::max(longest, list.size());
    std::vector<int32_t> slots;
    for (int64_t h = 0; h < heads; ++h) {
      for (const auto& list : lists) {
        slots.insert(slots.end(), list.begin(), list.end());
        slots.resize(slots.size() + longest - list.size(), -1);
      }
    }
    return call.Int("block_indices",
                    {1, heads, static_cast<int64_t>(lists.size()), static_cast<int64_t>(longest)},
                    slots);
  }
  Lists RandomLists(double share, int64_t rows = kMB, int64_t columns = kNB) {
    const Array draw = Uniform({rows, columns}, 0, 1);
    Lists lists(static_cast<size_t>(rows));
    for (int64_t u = 0; u < rows; ++u) {
      for (int64_t j = 0; j < columns; ++j) {
        if (draw(u, j) < share) lists[static_cast<size_t>(u)].push_back(static_cast<int32_t>(j));
      }
    }
    return lists;
  }
  static bool Listed(const Lists& lists, int64_t i, int64_t j) {
    const auto& list = lists[static_cast<size_t>(i / kBQ)];
    return std::find(list.begin(), list.end(), j / kBK) != list.end();
  }
  Attended WithLse(CallBuilder call) const {
    const Evaluation ran = Run(call.Set("return_lse", true));
    return {Array(Output(ran, "o")), Array(Output(ran, "lse"))};
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kHK, kK}),
              v_ = Normal({kB, kT, kHK, kV});
};
INSTANTIATE_PROPERTIES(BlockSparseTest);

TEST_P(BlockSparseTest, EverythingListedIsSoftmaxAttention) {
  for (const bool causal : {false, true}) {
    ExpectClose(
        Out(With(Sparse(), RandomLists(2)).Set("causal", causal)),
        Out(Call("softmax_attention").In("q", q_).In("k", k_).In("v", v_).Set("causal", causal)));
  }
}

TEST_P(BlockSparseTest, ListsSinksAndWindowsAddUp) {
  const Lists lists = RandomLists(0.3);
  for (const auto& [sink, window] : {std::pair{0, 0}, {5, 0}, {0, 19}, {3, 11}, {1, 200}}) {
    SCOPED_TRACE(absl::StrCat(sink, " ", window));
    const auto allowed = [&, sink = sink, window = window](int64_t i, int64_t j) {
      return j <= i && (Listed(lists, i, j) || j < sink || i - j < window);
    };
    const Attended expected = DenseAttention(q_, k_, v_, allowed);
    const CallBuilder call = With(Sparse(), lists)
                                 .Set("causal", true)
                                 .Set("sink", int64_t{sink})
                                 .Set("window", int64_t{window});
    ExpectClose(Out(call), expected.o);
  }
}

TEST_P(BlockSparseTest, AWindowWithoutListsIsASlidingWindow) {
  ExpectClose(Out(With(Sparse(), Lists(kMB)).Set("causal", true).Set("window", 24)),
              Out(Call("softmax_attention")
                      .In("q", q_)
                      .In("k", k_)
                      .In("v", v_)
                      .Set("causal", true)
                      .Set("window_left", 23)));
}

TEST_P(BlockSparseTest, AListIsAMask) {
  const Lists lists = RandomLists(0.4);
  Array mask({1, 1, kMB, kNB});
  for (int64_t u = 0; u < kMB; ++u) {
    for (const int32_t j : lists[static_cast<size_t>(u)]) mask(0, 0, u, j) = 1;
  }
  ExpectClose(Out(Sparse().Bool("block_mask", mask)), Out(With(Sparse(), lists)));
}

TEST_P(BlockSparseTest, TheOrderOfAListHasNoMeaning) {
  const Lists lists = RandomLists(0.5);
  Lists reversed = lists;
  for (auto& list : reversed) std::reverse(list.begin(), list.end());
  ExpectClose(Out(With(Sparse(), reversed)), Out(With(Sparse(), lists)));
}

TEST_P(BlockSparseTest, DisjointListsMergeThroughTheirLogSums) {
  const Lists all = RandomLists(2), a = RandomLists(0.5);
  Lists b(kMB);
  for (int64_t u = 0; u < kMB; ++u) {
    for (const int32_t j : all[static_cast<size_t>(u)]) {
      const auto& given = a[static_cast<size_t>(u)];
      if (std::find(given.begin(), given.end(), j) == given.end())
        b[static_cast<size_t>(u)].push_back(j);
    }
  }
  const Attended merged = Merge(WithLse(With(Sparse(), a)), WithLse(With(Sparse(), b)));
  const Attended whole = WithLse(With(Sparse(), all));
  ExpectClose(merged.o, whole.o);
  ExpectClose(merged.lse, whole.lse);
}

TEST_P(BlockSparseTest, PackedSequencesHaveTheirOwnGrids) {
  const std::vector<int32_t> offsets = {0, 37, 37, 83};
  const auto row = [](const Array& x) { return x.Slice(0, 0, 1); };
  const int64_t blocks = (46 + kBQ - 1) / kBQ, columns = (46 + kBK - 1) / kBK;
  std::vector<int32_t> slots;
  std::vector<Array> alone;
  std::vector<Lists> kept;
  for (size_t n = 0; n + 1 < offsets.size(); ++n) {
    const int64_t length = offsets[n + 1] - offsets[n];
    const int64_t rows = (length + kBQ - 1) / kBQ;
    const Lists lists = RandomLists(0.6, rows, (length + kBK - 1) / kBK);
    for (int64_t u = 0; u < blocks; ++u) {
      const size_t start = slots.size();
      if (u < rows) slots.insert(slots.end(), lists[u].begin(), lists[u].end());
      slots.resize(start + columns, -1);
    }
    if (length == 0) continue;
    const auto cut = [&](const Array& x) { return row(x).Slice(1, offsets[n], length); };
    alone.push_back(Out(With(Sparse(cut(q_), cut(k_), cut(v_)), lists).Set("causal", true)));
  }
  const Array packed = Out(Sparse(row(q_), row(k_), row(v_))
                               .Set("causal", true)
                               .Offsets(offsets)
                               .Int("block_indices", {3, 1, blocks, columns}, slots));
  ExpectClose(packed, Concatenate(alone, 1));
}

TEST_P(BlockSparseTest, LaterRowsAloneAreTheRowsOfTheWhole) {
  const int64_t before = 3 * kBQ;
  const Lists lists = RandomLists(0.5);
  const Array whole = Out(With(Sparse(), lists).Set("causal", true).Set("window", 4));
  const Lists rest(lists.begin() + 3, lists.end());
  ExpectClose(Out(With(Sparse(q_.Slice(1, before, kT - before), k_, v_), rest)
                      .Set("causal", true)
                      .Set("window", 4)),
              whole.Slice(1, before, kT - before));
}

TEST_P(BlockSparseTest, OneListServesAllHeads) {
  const Lists lists = RandomLists(0.5);
  ExpectClose(Out(With(Sparse(), lists, kH)), Out(With(Sparse(), lists, 1)));
}

TEST_P(BlockSparseTest, UnlistedValuesHaveNoInfluence) {
  Lists lists = RandomLists(0.5);
  for (auto& list : lists) std::erase(list, 4);
  Array huge = v_;
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t j = 4 * kBK; j < 5 * kBK; ++j) {
      for (int64_t c = 0; c < kHK * kV; ++c) huge(b, j, c / kV, c % kV) = 1e30;
    }
  }
  const Evaluation a = Run(With(Sparse(q_, k_, huge), lists)), b = Run(With(Sparse(), lists));
  EXPECT_TRUE(SameBits(a, b));
}

TEST_P(BlockSparseTest, KeysThatARowDoesNotReadMayHoldNan) {
  // Every row reads one half of a block and leaves the other: the rule cuts through tiles.
  const CallBuilder call = Sparse().Set("causal", true).Set("window", 5);
  Array k = k_, v = v_;
  for (int64_t c = 0; c < kHK * kV; ++c) v(0, 41, c / kV, c % kV) = std::nan("");
  for (int64_t c = 0; c < kHK * kK; ++c) k(0, 41, c / kK, c % kK) = std::nan("");
  const Lists none(kMB);
  const Array clean = Out(With(CallBuilder(call), none));
  const Array o = Out(With(CallBuilder(call).In("k", k).In("v", v), none));
  ExpectClose(o.Slice(1, 0, 41), clean.Slice(1, 0, 41));
  ExpectClose(o.Slice(1, 46, kT - 46), clean.Slice(1, 46, kT - 46));
  EXPECT_TRUE(std::isnan(o(0, 41, 0, 0)) && std::isnan(o(0, 45, 0, 0)));
}

TEST_P(BlockSparseTest, TheLargestBlocksAndWindowsAreLegal) {
  constexpr int64_t kLargest = std::numeric_limits<int64_t>::max();
  const CallBuilder softmax =
      Call("softmax_attention").In("q", q_).In("k", k_).In("v", v_).Set("causal", true);
  const CallBuilder one =
      Sparse().Set("block_size_q", kLargest).Set("block_size_k", kLargest).Set("causal", true);
  ExpectClose(Out(With(CallBuilder(one), {{0}})), Out(softmax));
  ExpectClose(Out(With(CallBuilder(one).Set("window", kLargest).Set("sink", kLargest), {{}})),
              Out(softmax));
}

TEST_P(BlockSparseTest, RefusesListsThatAreNone) {
  const auto indices = [&](std::vector<int32_t> list) {
    Lists lists(kMB);
    lists[1] = std::move(list);
    return With(Sparse(), lists);
  };
  ExpectRefused(Sparse(), "block_mask: missing");
  ExpectRefused(indices({1}).Bool("block_mask", Array({1, 1, kMB, kNB})),
                "block_mask: given, expected only if");
  ExpectRefused(indices({static_cast<int32_t>(kNB)}), "block_indices");
  ExpectRefused(indices({3, 3}), "block_indices");
  ExpectRefused(indices({3, -1}).Int("block_counts", {1, 1, kMB}, std::vector<int32_t>(kMB, 2)),
                "block_indices");
  ExpectRefused(indices({3}).Int("block_counts", {1, 1, kMB}, std::vector<int32_t>(kMB, 2)),
                "block_counts");
  ExpectRefused(indices({3}).Int("block_counts", {1, 1, kMB}, std::vector<int32_t>(kMB, -1)),
                "block_counts");
  ExpectRefused(indices({3}).Set("block_size_q", 0), "block_size_q");
  ExpectRefused(indices({3}).Set("sink", 2), "sink only with causal");
  ExpectRefused(indices({3}).Set("window", 2), "window only with causal");
  ExpectRefused(With(Sparse(), RandomLists(0.5), 3), "HB");
  // Packed: a sequence's own grid is the limit, in rows beyond it too.
  const auto packed = [&](const std::vector<int32_t>& slots) {
    const auto row = [](const Array& x) { return x.Slice(0, 0, 1).Slice(1, 0, kBQ + 1); };
    return Sparse(row(q_), row(k_), row(v_))
        .Offsets({0, 1, kBQ + 1})
        .Set("block_size_q", kBK)
        .Int("block_indices", {2, 1, 2, 1}, slots);
  };
  static_assert(kBQ == 2 * kBK);
  Run(packed({0, -1, 1, 0}));
  ExpectRefused(packed({1, -1, 1, 0}), "block_indices: given 1 at [0,0,0,0]");
  ExpectRefused(packed({0, 1, 1, 0}), "block_indices: given 1 at [0,0,1,0]");
}

}  // namespace
}  // namespace attnd::testing
