// What attention over the blocks that a learned gate chooses promises.
#include <cmath>
#include <string>
#include <vector>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 45, kH = 4, kHK = 2, kK = 8, kV = 6, kG = 10, kBlock = 4;
constexpr int64_t kBlocks = (kT + kBlock - 1) / kBlock;

class SeerAttentionTest : public PropertyTest {
 protected:
  CallBuilder Seer() const { return Seer(q_, k_, v_); }
  CallBuilder Seer(const Array& q, const Array& k, const Array& v) const {
    return Call("seer_attention")
        .In("q", q)
        .In("k", k)
        .In("v", v)
        .In("gate_wq", wq_)
        .In("gate_wk", wk_)
        .Set("block_size", kBlock)
        .Set("return_gate", true);
  }
  CallBuilder TopK(int64_t count) const {
    return Seer().Set("method", std::string("top_k")).Set("top_k", count);
  }
  CallBuilder Ratio(double ratio) const {
    return Seer().Set("method", std::string("nz_ratio")).Set("nz_ratio", ratio);
  }
  Array Whole() const {
    return Out(Call("softmax_attention").In("q", q_).In("k", k_).In("v", v_).Set("causal", true));
  }
  static int64_t Count(const Array& mask) {
    int64_t count = 0;
    for (const double listed : mask.values()) count += listed != 0 ? 1 : 0;
    return count;
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kHK, kK}),
              v_ = Normal({kB, kT, kHK, kV}), wq_ = Normal({kH, kK, kG}),
              wk_ = Normal({kHK, 3 * kK, kG});
};
INSTANTIATE_PROPERTIES(SeerAttentionTest);

TEST_P(SeerAttentionTest, KeepingEverythingIsCausalAttention) {
  const Array whole = Whole();
  ExpectClose(Out(Seer()), whole);
  ExpectClose(Out(Seer().Set("last_block_dense", false)), whole);
  ExpectClose(Out(Ratio(1)), whole);
  ExpectClose(Out(TopK(kBlocks)), whole);
  ExpectClose(Out(TopK(1000)), whole);
  // Two blocks are the last two.
  ExpectClose(Out(TopK(1).Set("block_size", int64_t{23})), whole);
  EXPECT_GT(RelativeError(Out(TopK(1)), whole), 0.01);
}

TEST_P(SeerAttentionTest, TheFirstBlockIsKeptAndGateRowsSumToOne) {
  for (const CallBuilder& call : {TopK(1), Ratio(0.05), Seer().Set("threshold", 0.5)}) {
    const Evaluation result = Run(CallBuilder(call).Set("last_block_dense", false));
    const Array mask(Output(result, "block_mask")), gate(Output(result, "gate"));
    for (int64_t h = 0; h < kH; ++h) {
      EXPECT_EQ(mask(1, h, 0, 0), 1);
      for (int64_t u = 0; u < kBlocks; ++u) {
        double sum = 0;
        for (int64_t w = 0; w < kBlocks; ++w) {
          sum += gate(1, h, u, w);
          if (w > u) {
            EXPECT_TRUE(mask(1, h, u, w) == 0 && gate(1, h, u, w) == 0);
          }
        }
        EXPECT_NEAR(sum, 1, 1e-5);
      }
    }
  }
}

TEST_P(SeerAttentionTest, AHigherThresholdNeverAddsBlocks) {
  Array before = Out(Seer(), "block_mask");
  for (const double threshold : {0.01, 0.05, 0.2, 0.7, 1.0}) {
    const Array after = Out(Seer().Set("threshold", threshold), "block_mask");
    for (size_t i = 0; i < after.values().size(); ++i) {
      EXPECT_LE(after.values()[i], before.values()[i]);
    }
    before = after;
  }
  // No share is above 1: nothing is left but the last rows, and of the others zeros.
  EXPECT_EQ(Count(before), kB * kH * (kBlocks - 1 + kBlocks));
  for (const Array all = Out(Seer().Set("threshold", 1.0)).Slice(1, 0, 8);
       const double x : all.values())
    EXPECT_EQ(x, 0);
}

TEST_P(SeerAttentionTest, CountsOfBlocks) {
  const CallBuilder call = TopK(3).Set("last_block_dense", false);
  EXPECT_EQ(Count(Out(call, "block_mask")), kB * kH * (1 + 2 + 3 * (kBlocks - 2)));
  // floor((1 - sqrt(1 - 0.5)) 12) = 3.
  static_assert(kBlocks == 12);
  EXPECT_EQ(Count(Out(Ratio(0.5).Set("last_block_dense", false), "block_mask")),
            kB * kH * (1 + 2 + 3 * (kBlocks - 2)));
}

TEST_P(SeerAttentionTest, TheScaleOfTheGateDoesNotMoveTheLargest) {
  for (const CallBuilder& call : {TopK(2), Ratio(0.4)}) {
    ExpectSame(CallBuilder(call).In("gate_wk", wk_ * 2).Set("return_gate", false),
               CallBuilder(call).Set("return_gate", false));
    ExpectClose(Out(CallBuilder(call).In("gate_wk", wk_ * 2), "block_mask"),
                Out(call, "block_mask"));
  }
}

TEST_P(SeerAttentionTest, TheSameRotationOfAllBlocksChangesNothing) {
  const auto turned = [&](bool same) {
    Array cos({kBlocks + 2, kG / 2}), sin = cos;
    for (int64_t u = 0; u < cos.dim(0); ++u) {
      for (int64_t c = 0; c < kG / 2; ++c) {
        const double angle = 0.7 * static_cast<double>(c + 1) * (same ? 1 : static_cast<double>(u));
        cos(u, c) = std::cos(angle);
        sin(u, c) = std::sin(angle);
      }
    }
    return Out(Seer().In("gate_cos", cos).In("gate_sin", sin), "gate");
  };
  ExpectClose(turned(true), Out(Seer(), "gate"));
  EXPECT_GT(RelativeError(turned(false), Out(Seer(), "gate")), 0.01);
}

TEST_P(SeerAttentionTest, LaterBlocksDoNotReachEarlierRows) {
  Array q = q_, k = k_, v = v_;
  for (int64_t t = 7 * kBlock; t < kT; ++t) {
    for (int64_t c = 0; c < kK; ++c) q(1, t, 0, c) = k(1, t, 1, c) = 5;
    for (int64_t c = 0; c < kV; ++c) v(1, t, 1, c) = std::nan("");
  }
  for (const bool dense : {false, true}) {
    const auto rows = [&](const Array& q, const Array& k, const Array& v) {
      return Out(Seer(q, k, v)
                     .Set("method", std::string("top_k"))
                     .Set("top_k", int64_t{2})
                     .Set("last_block_dense", dense))
          .Slice(1, 0, 7 * kBlock);
    };
    ExpectClose(rows(q, k, v), rows(q_, k_, v_));
  }
}

TEST_P(SeerAttentionTest, PackedSequencesAreEachAlone) {
  const std::vector<int32_t> offsets = {0, 17, 17, 45};
  const auto row = [](const Array& x) { return x.Slice(0, 0, 1); };
  const auto call = [&](const Array& q, const Array& k, const Array& v) {
    return Seer(q, k, v).Set("method", std::string("top_k")).Set("top_k", int64_t{2});
  };
  const Evaluation packed = Run(call(row(q_), row(k_), row(v_)).Offsets(offsets));
  const Array o(Output(packed, "o")), mask(Output(packed, "block_mask")),
      gate(Output(packed, "gate"));
  EXPECT_EQ(mask.shape(), (Dims{3, kH, 7, 7}));
  EXPECT_EQ(Count(mask.Slice(0, 1, 1)), 0);
  for (const int64_t m : {0, 2}) {
    const int64_t begin = offsets[m], length = offsets[m + 1] - begin;
    const int64_t blocks = (length + kBlock - 1) / kBlock;
    const auto cut = [&](const Array& x) { return row(x).Slice(1, begin, length); };
    const Evaluation alone = Run(call(cut(q_), cut(k_), cut(v_)));
    const auto corner = [&](const Array& x) {
      return x.Slice(0, m, 1).Slice(2, 0, blocks).Slice(3, 0, blocks);
    };
    ExpectClose(o.Slice(1, begin, length), Array(Output(alone, "o")));
    ExpectClose(corner(mask), Array(Output(alone, "block_mask")));
    ExpectClose(corner(gate), Array(Output(alone, "gate")));
    EXPECT_EQ(Count(mask.Slice(0, m, 1)), Count(corner(mask)));
  }
}

TEST_P(SeerAttentionTest, RefusesGatesThatDoNotFit) {
  ExpectRefused(Seer().Set("q_pool", std::string("[]")), "q_pool: given []");
  ExpectRefused(Seer().Set("k_pool", std::string("[\"max\", \"max\"]")), "k_pool: given");
  ExpectRefused(Seer().Set("k_pool", std::string("[\"median\"]")), "k_pool: given");
  ExpectRefused(Seer().Set("k_pool", std::string("[\"max\"]")),
                "gate_wk: given 24 rows, expected 8");
  ExpectRefused(Seer().In("k", k_.Slice(1, 0, 9)), "k: given");
  const CallBuilder bare = Call("seer_attention").In("q", q_).In("k", k_).In("v", v_);
  ExpectRefused(CallBuilder(bare).In("gate_wk", wk_), "gate_wq, or G = K");
  const Array square = Normal({kHK, 3 * kK, kK});
  ExpectRefused(
      CallBuilder(bare).In("gate_wk", square).Set("q_pool", std::string("[\"max\",\"avg\"]")),
      "q_pool: given 2 pools, expected one");
  ExpectRefused(Seer().In("gate_wk", Normal({kH, 3 * kK, kG})), "projections of every key head");
  ExpectRefused(Seer().In("gate_cos", Array({kBlocks, kG / 2})), "gate_cos and gate_sin together");
  const auto turned = [&](int64_t rows, int64_t channels) {
    return Seer().In("gate_cos", Array({rows, channels})).In("gate_sin", Array({rows, channels}));
  };
  ExpectRefused(turned(kBlocks - 1, kG / 2), "a row of the rotation for each block");
  ExpectRefused(turned(kBlocks, kG), "G even");
  ExpectRefused(Seer().Set("method", std::string("nz_ratio")), "nz_ratio with its method");
  ExpectRefused(Ratio(0), "nz_ratio: given 0");
  ExpectRefused(Ratio(1.01), "nz_ratio: given 1.01");
  ExpectRefused(TopK(0), "top_k: given 0");
  ExpectRefused(Seer().Set("top_k", int64_t{2}), "top_k with its method");
  ExpectRefused(Seer().Set("threshold", -0.1), "threshold: given -0.1");
  ExpectRefused(Seer().Set("threshold", std::nan("")), "threshold");
  ExpectRefused(TopK(2).Set("threshold", 0.1), "threshold with its method");
}

}  // namespace
}  // namespace attnd::testing
