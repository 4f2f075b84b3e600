// What attention at powers of two promises.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 75, kH = 4, kHK = 2, kK = 8, kV = 6;

class PowerAttentionTest : public PropertyTest {
 protected:
  CallBuilder Power(int64_t block) { return Power(block, q_, k_, v_); }
  CallBuilder Power(int64_t block, const Array& q, const Array& k, const Array& v) {
    return Call("power_attention").In("q", q).In("k", k).In("v", v).Set("block_size", block);
  }
  CallBuilder Whole() {
    return Call("softmax_attention").In("q", q_).In("k", k_).In("v", v_).Set("causal", true);
  }

  // Who reads whom, seen from outside: equal scores and one-hot values give 1/count for keys read.
  std::vector<std::vector<bool>> Read(int64_t tokens, int64_t block, int64_t window,
                                      int64_t sinks) {
    Array v({1, tokens, 1, tokens});
    for (int64_t j = 0; j < tokens; ++j) v(0, j, 0, j) = 1;
    const Array zero({1, tokens, 1, 1});
    const Array o =
        Out(Power(block, zero, zero, v).Set("window_blocks", window).Set("sink_blocks", sinks));
    std::vector<std::vector<bool>> read(tokens, std::vector<bool>(tokens));
    for (int64_t i = 0; i < tokens; ++i) {
      for (int64_t j = 0; j < tokens; ++j) read[i][j] = o(0, i, 0, j) > 0;
    }
    return read;
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kHK, kK}),
              v_ = Normal({kB, kT, kHK, kV});
};
INSTANTIATE_PROPERTIES(PowerAttentionTest);

TEST_P(PowerAttentionTest, AWindowOverAllOrOneBlockIsCausalAttention) {
  const Array whole = Out(Whole());
  ExpectClose(Out(Power(8).Set("window_blocks", (kT + 7) / 8)), whole);
  ExpectClose(Out(Power(kT).Set("window_blocks", 0).Set("sink_blocks", 0)), whole);
  ExpectClose(Out(Power(std::numeric_limits<int64_t>::max())), whole);
}

TEST_P(PowerAttentionTest, TheBlocksOfALateRowAreNearSunkOrAPowerAway) {
  const auto read = Read(128, 1, 5, 1);
  std::vector<int64_t> distances;
  for (int64_t j = 127; j >= 0; --j) {
    if (read[127][j]) distances.push_back(127 - j);
  }
  EXPECT_EQ(distances, (std::vector<int64_t>{0, 1, 2, 3, 4, 8, 16, 32, 64, 127}));
}

// The d-th power of who-reads-whom: distances of at most d binary ones, and at least 2^d of them.
TEST_P(PowerAttentionTest, LayersReachTwiceAsFarEach) {
  constexpr int64_t kTokens = 64, kLayers = 6;
  const auto read = Read(kTokens, 1, 1, 0);
  std::vector<bool> reached(kTokens);
  reached[kTokens - 1] = true;
  for (int64_t layer = 1; layer <= kLayers; ++layer) {
    std::vector<bool> next(kTokens);
    for (int64_t i = 0; i < kTokens; ++i) {
      for (int64_t j = 0; reached[i] && j <= i; ++j) next[j] = next[j] || read[i][j];
    }
    reached = next;
    int64_t count = 0;
    for (int64_t d = 0; d < kTokens; ++d) {
      const bool here = reached[kTokens - 1 - d];
      count += here ? 1 : 0;
      if (__builtin_popcountll(static_cast<uint64_t>(d)) <= layer) {
        EXPECT_TRUE(here) << d;
      }
    }
    EXPECT_GE(count, int64_t{1} << layer);
  }
  EXPECT_EQ(std::count(reached.begin(), reached.end(), true), kTokens);
}

TEST_P(PowerAttentionTest, TheLastRowsAreDecoding) {
  for (const int64_t rows : {1, 3, 8, 40}) {
    const Array all = Out(Power(8).Set("window_blocks", 2));
    ExpectClose(Out(Power(8, q_.Slice(1, kT - rows, rows), k_, v_).Set("window_blocks", 2)),
                all.Slice(1, kT - rows, rows));
  }
}

TEST_P(PowerAttentionTest, QueriesBeforeAllKeysGiveZeros) {
  const CallBuilder call =
      Power(4, q_, k_.Slice(1, 0, 40), v_.Slice(1, 0, 40)).Set("return_lse", true);
  for (const Array all = Out(call).Slice(1, 0, 35); const double x : all.values()) EXPECT_EQ(x, 0);
  for (const Array all = Out(call, "lse").Slice(1, 0, 35); const double x : all.values())
    EXPECT_EQ(x, -INFINITY);
  const Array late = q_.Slice(1, 35, 40);
  ExpectClose(Out(call).Slice(1, 35, 40),
              Out(Power(4, late, k_.Slice(1, 0, 40), v_.Slice(1, 0, 40))));
}

TEST_P(PowerAttentionTest, IsBlockSparseAttentionWithItsListsWrittenOut) {
  constexpr int64_t kBlock = 8, kBlocks = (kT + kBlock - 1) / kBlock;
  Array listed({1, 1, kBlocks, kBlocks});
  for (int64_t u = 0; u < kBlocks; ++u) {
    for (int64_t w = 0; w <= u; ++w) {
      const int64_t d = u - w;
      const bool power = d == 0 || d == 1 || d == 2 || d == 4 || d == 8;
      listed(0, 0, u, w) = d < 2 || power || w < 1;
    }
  }
  ExpectSame(Power(kBlock).Set("window_blocks", 2).Set("return_lse", true),
             Call("block_sparse_attention")
                 .In("q", q_)
                 .In("k", k_)
                 .In("v", v_)
                 .Bool("block_mask", listed)
                 .Set("block_size_q", kBlock)
                 .Set("block_size_k", kBlock)
                 .Set("causal", true)
                 .Set("return_lse", true));
}

TEST_P(PowerAttentionTest, RefusesWhatIsNoPattern) {
  ExpectRefused(Power(0), "block_size: given 0");
  ExpectRefused(Power(4).Set("window_blocks", -1), "window_blocks: given -1");
  ExpectRefused(Power(4).Set("sink_blocks", -1), "sink_blocks: given -1");
  const auto row = [](const Array& x) { return x.Slice(0, 0, 1); };
  ExpectRefused(Power(4, row(q_), row(k_).Slice(1, 0, 40), row(v_).Slice(1, 0, 40))
                    .Offsets({0, static_cast<int32_t>(kT)}),
                "as many keys as queries");
}

}  // namespace
}  // namespace attnd::testing
