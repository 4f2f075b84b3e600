// What attention rebalanced towards image tokens promises.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 21, kS = 30, kH = 4, kHK = 2, kK = 6, kV = 5;
constexpr int64_t kStart = 3, kPatches = 16, kPrefix = 1, kEncoderHeads = 3;

class AttentionRebalanceTest : public PropertyTest {
 protected:
  CallBuilder Inputs(absl::string_view op) const {
    return Call(op).In("q", q_).In("k", k_).In("v", v_);
  }
  CallBuilder Mapped() const {
    return Inputs("attention_rebalance")
        .In("attn_first", first_)
        .In("attn_deep", deep_)
        .Set("spatial_ratio", 0.2)
        .Set("img_start", kStart);
  }
  CallBuilder Masked(const Array& top, const Array& bottom) const {
    return Inputs("attention_rebalance")
        .Bool("top_mask", top)
        .Bool("bottom_mask", bottom)
        .Set("img_start", kStart);
  }
  Array Plain() const { return Out(Inputs("softmax_attention").Set("causal", true)); }
  // A token that the class token looks at far more than at others.
  Array WithPeak(Array maps) const {
    for (int64_t h = 0; h < kEncoderHeads; ++h) maps(1, h, 0, kPrefix + 7) = 50;
    return maps;
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kS, kHK, kK}),
              v_ = Normal({kB, kS, kHK, kV});
  const Dims maps_ = {kB, kEncoderHeads, kPatches + kPrefix, kPatches + kPrefix};
  const Array first_ = Uniform(maps_, 0, 1), deep_ = WithPeak(Uniform(maps_, 0, 1));
};
INSTANTIATE_PROPERTIES(AttentionRebalanceTest);

TEST_P(AttentionRebalanceTest, WithoutStrengthItIsSoftmaxAttention) {
  for (const std::string rows : {"last", "all"}) {
    ExpectClose(Out(Mapped().Set("rows", rows).Set("alpha", 0.0).Set("beta", 0.0)), Plain());
    ExpectClose(Out(Mapped().Set("rows", rows).In("head_weight", Array({kH}))), Plain());
    EXPECT_GT(RelativeError(Out(Mapped().Set("rows", rows).Set("alpha", 3.0)), Plain()), 0.001);
  }
}

TEST_P(AttentionRebalanceTest, OnlyTheLastRowChangesUnlessAllDo) {
  const Array last = Out(Mapped()), all = Out(Mapped().Set("rows", std::string("all")));
  ExpectClose(last.Slice(1, 0, kT - 1), Plain().Slice(1, 0, kT - 1));
  ExpectClose(last.Slice(1, kT - 1, 1), all.Slice(1, kT - 1, 1));
  Array mask({kT, kS});
  const Array draw = Uniform(mask.shape(), 0, 1);
  for (size_t i = 0; i < draw.values().size(); ++i) mask.values()[i] = draw.values()[i] < 0.7;
  for (const bool causal : {false, true}) {
    const Array masked = Out(Mapped().Bool("mask", mask).Set("causal", causal));
    ExpectClose(masked.Slice(1, 0, kT - 1),
                Out(Inputs("softmax_attention").Bool("mask", mask).Set("causal", causal))
                    .Slice(1, 0, kT - 1));
  }
}

// The modifier written out on scores, through a key channel for each pair of query and key.
TEST_P(AttentionRebalanceTest, ScoresAreRaisedByTheirSize) {
  const Array q = Normal({1, 1, 1, 1}), k = Normal({1, kS, 1, 1});
  Array top({1, kPatches}), bottom({1, kPatches}), values({1, kS, 1, kS});
  for (int64_t m = 0; m < kPatches; m += 3) top(0, m) = 1;
  for (int64_t m = 0; m < kPatches; m += 2) bottom(0, m) = 1;  // Overlaps: top wins.
  for (int64_t j = 0; j < kS; ++j) values(0, j, 0, j) = 1;
  const Array o = Out(Call("attention_rebalance")
                          .In("q", q)
                          .In("k", k)
                          .In("v", values)
                          .In("head_weight", Array({1}, 0.5))
                          .Bool("top_mask", top)
                          .Bool("bottom_mask", bottom)
                          .Set("img_start", kStart));
  std::vector<double> expected;
  double sum = 0;
  for (int64_t j = 0; j < kS; ++j) {
    const int64_t m = j - kStart;
    const bool image = m >= 0 && m < kPatches;
    const double f = !image ? 0 : m % 3 == 0 ? 0.7 : m % 2 == 0 ? 0.3 : 0;
    const double l = q(0, 0, 0, 0) * k(0, j, 0, 0);
    expected.push_back(std::exp(l + f * 0.5 * std::abs(l)));
    sum += expected.back();
  }
  for (double& x : expected) x /= sum;
  ExpectClose(o, Array({1, 1, 1, kS}, expected));
}

TEST_P(AttentionRebalanceTest, VisualMassDoesNotFallAsAlphaGrows) {
  const Array mask({kB, kPatches}, 1);
  Array before = Out(Masked(mask, Array({kB, kPatches})).Set("alpha", 0.0), "visual_mass");
  const Array first = before;
  for (const double alpha : {0.3, 0.7, 2.0}) {
    // Raised by their size: of scores that are not negative all grow, and so does their mass.
    const Array after = Out(Masked(mask, Array({kB, kPatches})).Set("alpha", alpha), "visual_mass");
    for (size_t i = 0; i < after.values().size(); ++i) {
      EXPECT_GE(after.values()[i], before.values()[i] - 1e-6);
      EXPECT_TRUE(after.values()[i] >= 0 && after.values()[i] <= 1 + 1e-6);
    }
    before = after;
  }
  EXPECT_GT(RelativeError(before, first), 0.001);
}

TEST_P(AttentionRebalanceTest, MasksGivenBackGiveTheSame) {
  const Evaluation chosen = Run(Mapped());
  const Array top(Output(chosen, "top_mask")), bottom(Output(chosen, "bottom_mask"));
  for (size_t i = 0; i < top.values().size(); ++i)
    EXPECT_EQ(top.values()[i] * bottom.values()[i], 0);
  EXPECT_EQ(bottom(1, 7), 1);
  const Evaluation given = Run(Masked(top, bottom));
  for (const char* output : {"o", "visual_mass", "top_mask", "bottom_mask"}) {
    ExpectClose(Array(Output(given, output)), Array(Output(chosen, output)));
  }
}

TEST_P(AttentionRebalanceTest, ChoosesWhatTheClassTokenAndTheOthersLookAt) {
  const CallBuilder calm = Mapped().In("attn_deep", Array(maps_, 1));
  for (const bool local : {true, false}) {
    const Array top = Out(CallBuilder(calm)
                              .Set("local_ratio", local ? 0.25 : 0.0)
                              .Set("spatial_ratio", local ? 0.0 : 0.25),
                          "top_mask");
    for (int64_t b = 0; b < kB; ++b) {
      std::vector<std::pair<double, int64_t>> scores;
      for (int64_t j = 0; j < kPatches; ++j) {
        double score = 0;
        for (int64_t h = 0; h < kEncoderHeads; ++h) {
          for (int64_t i = 0; i < kPatches; ++i) {
            score += local ? first_(b, h, 0, 1 + j) : first_(b, h, 1 + i, 1 + j);
          }
        }
        scores.emplace_back(-score, j);
      }
      std::sort(scores.begin(), scores.end());
      for (size_t r = 0; r < scores.size(); ++r) EXPECT_EQ(top(b, scores[r].second), r < 4 ? 1 : 0);
    }
  }
}

TEST_P(AttentionRebalanceTest, ADecodeStepIsTheLastRow) {
  const Evaluation whole = Run(Mapped()), step = Run(Mapped().In("q", q_.Slice(1, kT - 1, 1)));
  ExpectClose(Array(Output(step, "o")), Array(Output(whole, "o")).Slice(1, kT - 1, 1));
  ExpectClose(Array(Output(step, "visual_mass")), Array(Output(whole, "visual_mass")));
}

TEST_P(AttentionRebalanceTest, RefusesImagesThatDoNotFit) {
  const Array mask({kB, kPatches});
  const CallBuilder bare = Inputs("attention_rebalance").Set("img_start", kStart);
  ExpectRefused(bare, "either the maps or the masks");
  ExpectRefused(Mapped().Bool("top_mask", mask).Bool("bottom_mask", mask), "either the maps");
  ExpectRefused(CallBuilder(bare).Bool("top_mask", mask), "top_mask and bottom_mask together");
  ExpectRefused(CallBuilder(bare).In("attn_first", first_), "attn_first and attn_deep");
  ExpectRefused(Mapped().Set("img_start", int64_t{-1}), "img_start: given -1");
  ExpectRefused(Mapped().Set("img_start", int64_t{15}), "an image within the keys");
  ExpectRefused(Mapped().Set("local_ratio", 1.5), "local_ratio: given 1.5");
  ExpectRefused(Mapped().Set("spatial_ratio", -0.5), "spatial_ratio: given -0.5");
  ExpectRefused(Mapped().Set("alpha", -1.0), "alpha: given -1");
  ExpectRefused(Mapped().Set("beta", -1.0), "beta: given -1");
  ExpectRefused(Mapped().In("head_weight", Array({kH}, -1)),
                "head_weight: given head_weight[0]=-1");
  ExpectRefused(Mapped().Set("vit_prefix", int64_t{0}), "a class token with the maps");
  ExpectRefused(Mapped().In("k", k_.Slice(1, 0, 20)).In("v", v_.Slice(1, 0, 20)),
                "at most as many queries as keys");
}

}  // namespace
}  // namespace attnd::testing
