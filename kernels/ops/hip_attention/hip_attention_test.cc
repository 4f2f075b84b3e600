// What attention to the keys that a tree search finds promises.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 75, kH = 4, kHK = 2, kK = 8, kV = 6;
constexpr int64_t kBQ = 8, kBK = 2, kWindow = 6, kSink = 4, kMask = 10;

class HipAttentionTest : public PropertyTest {
 protected:
  CallBuilder Hip() const { return Hip(q_, k_, v_); }
  CallBuilder Hip(const Array& q, const Array& k, const Array& v) const {
    return Call("hip_attention")
        .In("q", q)
        .In("k", k)
        .In("v", v)
        .Set("mask_k", kMask)
        .Set("block_size_q", kBQ)
        .Set("block_size_k", kBK)
        .Set("sliding_window", kWindow)
        .Set("sink", kSink)
        .Set("return_lse", true)
        .Set("return_blocks", true);
  }
  Array Whole() const {
    return Out(Call("softmax_attention").In("q", q_).In("k", k_).In("v", v_).Set("causal", true));
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kHK, kK}),
              v_ = Normal({kB, kT, kHK, kV});
};
INSTANTIATE_PROPERTIES(HipAttentionTest);

TEST_P(HipAttentionTest, FindingEverythingIsCausalAttention) {
  const Array whole = Whole();
  ExpectClose(Out(Hip().Set("mask_k", kT)), whole);
  ExpectClose(Out(Hip().Set("mask_k", kT - kWindow - kSink)), whole);
  ExpectClose(Out(Hip().Set("sliding_window", int64_t{76})), whole);
  ExpectClose(Out(Hip().Set("sliding_window", std::numeric_limits<int64_t>::max() - 1)), whole);
  EXPECT_GT(RelativeError(Out(Hip()), whole), 0.01);
}

TEST_P(HipAttentionTest, SetsAreDistinctBlocksBetweenSinkAndWindow) {
  for (const std::string which : {"first", "center", "last"}) {
    const Array starts = Out(Hip().Set("representative", which), "block_starts");
    EXPECT_EQ(starts.shape(), (Dims{kB, kH, 10, kMask / kBK}));
    for (int64_t h = 0; h < kH; ++h) {
      for (int64_t u = 0; u < 10; ++u) {
        const int64_t visible = std::min(kT, (u + 1) * kBQ);
        const int64_t n = std::max<int64_t>(0, visible - kWindow - kSink);
        const int64_t count = std::min<int64_t>(kMask / kBK, (n + 1) / kBK);
        for (int64_t i = 0; i < kMask / kBK; ++i) {
          const double start = starts(1, h, u, i);
          if (i >= count) {
            EXPECT_EQ(start, -1);
            continue;
          }
          EXPECT_TRUE(start >= kSink && start < static_cast<double>(visible - kWindow)) << start;
          EXPECT_EQ(std::fmod(start - kSink, kBK), 0);
          if (i > 0) {
            EXPECT_GT(start, starts(1, h, u, i - 1));
          }
        }
      }
    }
  }
}

TEST_P(HipAttentionTest, OfEqualScoresTheEarlierStays) {
  const Array k = Normal({1, 128, 1, kK});
  const Array starts = Out(Hip(Array({1, 1, 1, kK}), k, k)
                               .Set("mask_k", int64_t{4})
                               .Set("sliding_window", int64_t{0})
                               .Set("sink", int64_t{0}),
                           "block_starts");
  EXPECT_EQ(starts.values(), (std::vector<double>{0, 2}));
}

TEST_P(HipAttentionTest, RisingScoresLeadToTheHighestBlock) {
  Array q({1, 40, 1, 1}, 1), k({1, 200, 1, 1});
  for (int64_t j = 0; j < 200; ++j) k(0, j, 0, 0) = static_cast<double>(j);
  for (const std::string which : {"first", "center", "last"}) {
    const Array starts = Out(Hip(q, k, k).Set("representative", which), "block_starts");
    for (int64_t u = 0; u < 5; ++u) {
      const int64_t visible = 160 + (u + 1) * kBQ;
      double highest = -1;
      for (int64_t i = 0; i < starts.dim(3); ++i) highest = std::max(highest, starts(0, 0, u, i));
      EXPECT_EQ(highest, static_cast<double>(visible - kWindow - kBK)) << which;
    }
  }
}

TEST_P(HipAttentionTest, TheScaleOfQueriesMovesNoSet) {
  ExpectClose(Out(Hip(q_ * 4, k_, v_), "block_starts"), Out(Hip(), "block_starts"));
}

TEST_P(HipAttentionTest, ADecodeStepIsALastBlockOfOneRow) {
  // 73 = 9 blocks and a row.
  const auto cut = [](const Array& x) { return x.Slice(1, 0, 73); };
  const Evaluation whole = Run(Hip(cut(q_), cut(k_), cut(v_)));
  const Evaluation step = Run(Hip(q_.Slice(1, 72, 1), cut(k_), cut(v_)));
  ExpectClose(Array(Output(step, "o")), Array(Output(whole, "o")).Slice(1, 72, 1));
  ExpectClose(Array(Output(step, "lse")), Array(Output(whole, "lse")).Slice(1, 72, 1));
  ExpectClose(Array(Output(step, "block_starts")),
              Array(Output(whole, "block_starts")).Slice(2, 9, 1));
}

TEST_P(HipAttentionTest, PackedSequencesAreEachAlone) {
  const std::vector<int32_t> offsets = {0, 47, 47, 75};
  const auto row = [](const Array& x) { return x.Slice(0, 0, 1); };
  const Evaluation packed = Run(Hip(row(q_), row(k_), row(v_)).Offsets(offsets));
  const Array starts(Output(packed, "block_starts"));
  EXPECT_EQ(starts.shape(), (Dims{3, kH, 6, 5}));
  for (const int64_t m : {0, 2}) {
    const int64_t begin = offsets[m], length = offsets[m + 1] - begin;
    const auto cut = [&](const Array& x) { return row(x).Slice(1, begin, length); };
    const Evaluation alone = Run(Hip(cut(q_), cut(k_), cut(v_)));
    const Array expected(Output(alone, "block_starts"));
    ExpectClose(Array(Output(packed, "o")).Slice(1, begin, length), Array(Output(alone, "o")));
    ExpectClose(starts.Slice(0, m, 1).Slice(2, 0, expected.dim(2)).Slice(3, 0, expected.dim(3)),
                expected);
  }
  for (const Array all = starts.Slice(0, 1, 1); const double start : all.values())
    EXPECT_EQ(start, -1);
}

// And so keys that no list, sink or window holds are not read.
TEST_P(HipAttentionTest, IsBlockSparseAttentionWithTheReturnedLists) {
  const Evaluation found = Run(Hip());
  std::vector<int32_t> indices;
  for (const Array all = Array(Output(found, "block_starts")); const double start : all.values()) {
    indices.push_back(start < 0 ? -1 : static_cast<int32_t>(start) / kBK);
  }
  const CallBuilder sparse = Call("block_sparse_attention")
                                 .In("q", q_)
                                 .In("k", k_)
                                 .In("v", v_)
                                 .Int("block_indices", {kB, kH, 10, kMask / kBK}, indices)
                                 .Set("block_size_q", kBQ)
                                 .Set("block_size_k", kBK)
                                 .Set("causal", true)
                                 .Set("sink", kSink)
                                 .Set("window", kWindow)
                                 .Set("return_lse", true);
  ExpectClose(Array(Output(found, "o")), Out(sparse));
  ExpectClose(Array(Output(found, "lse")), Out(sparse, "lse"));
}

TEST_P(HipAttentionTest, RefusesSizesThatDoNotFit) {
  for (const char* size :
       {"mask_k", "block_size_q", "block_stride_q", "block_size_k", "block_stride_k"}) {
    ExpectRefused(Hip().Set(size, int64_t{0}), absl::StrCat(size, ": given 0"));
  }
  ExpectRefused(Hip().Set("block_stride_q", kBQ + 1), "a stride of at most the block");
  ExpectRefused(Hip().Set("block_stride_k", int64_t{3}), "a stride that divides the block");
  ExpectRefused(Hip().Set("sink", int64_t{3}), "a multiple of block_size_k");
  ExpectRefused(Hip().Set("sliding_window", int64_t{3}), "a multiple of block_size_k");
  ExpectRefused(Hip().Set("sink", int64_t{-2}), "sink: given -2");
  ExpectRefused(Hip().Set("scale", 0.0), "scale: given 0");
  const auto row = [](const Array& x) { return x.Slice(0, 0, 1); };
  ExpectRefused(Hip(row(q_), row(k_).Slice(1, 0, 9), row(v_).Slice(1, 0, 9)).Offsets({0, 75}),
                "as many keys as queries");
}

}  // namespace
}  // namespace attnd::testing
