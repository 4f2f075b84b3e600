// What the joining of attentions promises.
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/testing/dense_attention.h"
#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 23, kH = 2, kK = 8, kV = 5, kBlock = 4;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

class MergeAttentionTest : public PropertyTest {
 protected:
  CallBuilder Parts(const Array& o, const Array& lse) {
    return Call("merge_attention").In("o_parts", o).In("lse_parts", lse);
  }
  static Array Stacked(const std::vector<Array>& parts) {
    std::vector<Array> rows;
    for (const Array& part : parts) {
      Dims shape = part.shape();
      shape.insert(shape.begin(), 1);
      rows.push_back(part.Reshape(shape));
    }
    return Concatenate(rows, 0);
  }
  Attended Joined(const std::vector<Attended>& parts) {
    std::vector<Array> o, lse;
    for (const Attended& part : parts) {
      o.push_back(part.o);
      lse.push_back(part.lse);
    }
    return Outputs(Parts(Stacked(o), Stacked(lse)));
  }
  Attended Outputs(const CallBuilder& call) { return {Out(call), Out(call, "lse")}; }
  void ExpectEqual(const Attended& a, const Attended& b) {
    ExpectClose(a.o, b.o);
    for (size_t i = 0; i < b.lse.values().size(); ++i) {
      const double x = a.lse.values()[i], y = b.lse.values()[i];
      if (std::isinf(y)) {
        EXPECT_EQ(x, y);
      } else {
        EXPECT_NEAR(x, y, 10 * tolerance());
      }
    }
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV});
  const Array o_ = Normal({3, kB, kT, kH, kV}), lse_ = Normal({3, kB, kT, kH}) * 3;
};
INSTANTIATE_PROPERTIES(MergeAttentionTest);

// A third of the keys at random to each part; early rows of causal attention see none of some.
TEST_P(MergeAttentionTest, ASplitOfTheKeysOfSoftmaxAttentionIsTheWhole) {
  for (const bool causal : {false, true}) {
    const auto attend = [&](const Array& mask) {
      return Outputs(Call("softmax_attention")
                         .In("q", q_)
                         .In("k", k_)
                         .In("v", v_)
                         .Bool("mask", mask)
                         .Set("causal", causal)
                         .Set("return_lse", true));
    };
    std::vector<Array> masks(3, Array({kT, kT}));
    const std::vector<int64_t> order = Permutation(kT);
    for (int64_t j = 0; j < kT; ++j) {
      for (int64_t i = 0; i < kT; ++i) masks[static_cast<size_t>(order[j] % 3)](i, j) = 1;
    }
    ExpectEqual(Joined({attend(masks[0]), attend(masks[1]), attend(masks[2])}),
                attend(Array({kT, kT}, 1)));
  }
}

TEST_P(MergeAttentionTest, ASplitOfTheBlocksOfBlockSparseAttentionIsTheWhole) {
  constexpr int64_t kBlocks = (kT + kBlock - 1) / kBlock;
  const auto attend = [&](const Array& listed) {
    return Outputs(Call("block_sparse_attention")
                       .In("q", q_)
                       .In("k", k_)
                       .In("v", v_)
                       .Bool("block_mask", listed)
                       .Set("block_size_q", kBlock)
                       .Set("block_size_k", kBlock)
                       .Set("causal", true)
                       .Set("return_lse", true));
  };
  Array all({1, 1, kBlocks, kBlocks}), a = all, b = all;
  const Array draw = Uniform(all.shape(), 0, 3);
  for (size_t i = 0; i < draw.values().size(); ++i) {
    a.values()[i] = draw.values()[i] < 1 ? 1 : 0;
    b.values()[i] = draw.values()[i] > 2 ? 1 : 0;
    all.values()[i] = a.values()[i] + b.values()[i];
  }
  ExpectEqual(Joined({attend(a), attend(b)}), attend(all));
}

TEST_P(MergeAttentionTest, OrderAndBracketingDoNotMatter) {
  const auto part = [&](int64_t p) {
    return Attended{o_.Slice(0, p, 1).Reshape({kB, kT, kH, kV}),
                    lse_.Slice(0, p, 1).Reshape({kB, kT, kH})};
  };
  const Attended all = Outputs(Parts(o_, lse_));
  ExpectEqual(Joined({part(2), part(0), part(1)}), all);
  ExpectEqual(Joined({Joined({part(0), part(1)}), part(2)}), all);
  ExpectEqual(Joined({part(0), Joined({part(1), part(2)})}), all);
  ExpectEqual(Merge(Merge(part(0), part(1)), part(2)), all);
}

TEST_P(MergeAttentionTest, OnePartIsItself) {
  const Array o = o_.Slice(0, 0, 1);
  Array lse = lse_.Slice(0, 0, 1), expected = o;
  lse(0, 1, 4, 1) = -kInfinity;
  for (int64_t c = 0; c < kV; ++c) expected(0, 1, 4, 1, c) = 0;
  const Attended merged = Outputs(Parts(o, lse));
  ExpectEqual(merged, {expected.Reshape({kB, kT, kH, kV}), lse.Reshape({kB, kT, kH})});
  EXPECT_EQ(merged.lse(1, 4, 1), -kInfinity);
}

TEST_P(MergeAttentionTest, PartsWithoutKeysAreNotRead) {
  Array o = o_, lse = lse_;
  for (int64_t t = 0; t < kT; ++t) {
    lse(1, 0, t, 0) = -kInfinity;
    for (int64_t c = 0; c < kV; ++c) o(1, 0, t, 0, c) = std::nan("");
  }
  Array clean = o_;
  for (int64_t t = 0; t < kT; ++t) {
    for (int64_t c = 0; c < kV; ++c) clean(1, 0, t, 0, c) = 0;
  }
  ExpectEqual(Outputs(Parts(o, lse)), Outputs(Parts(clean, lse)));
  for (const Array all = Out(Parts(o, lse)); const double x : all.values())
    EXPECT_TRUE(std::isfinite(x));
}

TEST_P(MergeAttentionTest, AConstantOnAllLogSumsMovesTheLogSumAlone) {
  const Attended before = Outputs(Parts(o_, lse_));
  const auto add = [](double x) { return x + 700; };
  ExpectEqual(Outputs(Parts(o_, lse_.Map(add))), {before.o, before.lse.Map(add)});
}

TEST_P(MergeAttentionTest, InfiniteAndNanLogSumsGiveNan) {
  for (const double odd : {kInfinity, std::nan("")}) {
    Array lse = lse_;
    lse(1, 0, 3, 1) = odd;
    const Attended merged = Outputs(Parts(o_, lse));
    EXPECT_TRUE(std::isnan(merged.o(0, 3, 1, 0)) && std::isnan(merged.lse(0, 3, 1)));
    EXPECT_TRUE(std::isfinite(merged.o(0, 2, 1, 0)) && std::isfinite(merged.lse(0, 3, 0)));
  }
}

TEST_P(MergeAttentionTest, RefusesPartsThatDoNotFit) {
  ExpectRefused(Parts(o_, lse_.Slice(0, 0, 2)), "lse_parts: given [2,2,23,2], expected");
  ExpectRefused(Parts(o_, lse_.Slice(2, 0, 9)), "lse_parts: given");
  ExpectRefused(Parts(Array({0, kB, kT, kH, kV}), Array({0, kB, kT, kH})),
                "o_parts: given a size of 0 for P");
  ExpectRefused(Call("merge_attention").In("o_parts", o_), "lse_parts: missing");
}

}  // namespace
}  // namespace attnd::testing
