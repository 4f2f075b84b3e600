// What injective linear attention promises.
#include <cmath>

#include "kernels/testing/pairwise_mean.h"
#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kHeight = 5, kWidth = 9, kT = kHeight * kWidth, kH = 2, kK = 8, kV = 6;

class InlineAttentionTest : public PropertyTest {
 protected:
  CallBuilder Inline(const Array& q, const Array& k, const Array& v) const {
    return Call("inline_attention").In("q", q).In("k", k).In("v", v);
  }
  CallBuilder OnImage() const {
    return Inline(q_, k_, v_).Set("height", kHeight).Set("width", kWidth);
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV});
};
INSTANTIATE_PROPERTIES(InlineAttentionTest);

TEST_P(InlineAttentionTest, EqualsItsQuadraticForm) {
  const std::pair<const char*, double (*)(double)> kernels[] = {
      {"identity", [](double x) { return x; }},
      {"relu", [](double x) { return x > 0 ? x : 0; }},
      {"leaky_relu", [](double x) { return x > 0 ? x : 0.01 * x; }},
      {"exp", [](double x) { return std::exp(0.2 * x); }}};
  for (const auto& [name, phi] : kernels) {
    Array weights = PairProducts(q_.Map(phi), k_.Map(phi)) * (0.7 / kT);
    for (size_t row = 0; row < weights.values().size(); row += kT) {
      double sum = 0;
      for (int64_t j = 0; j < kT; ++j) sum += weights.values()[row + j];
      for (int64_t j = 0; j < kT; ++j) weights.values()[row + j] += (1 - sum) / kT;
    }
    ExpectClose(Out(Inline(q_, k_, v_).Set("kernel", name).Set("scale", 0.7)),
                WeightedSum(weights, v_));
  }
}

TEST_P(InlineAttentionTest, WeightsSumToOneExactly) {
  for (const char* kernel : {"identity", "relu", "exp"}) {
    const Array o = Out(Inline(q_, k_, Array(v_.shape(), 1)).Set("kernel", kernel));
    for (const double x : o.values()) EXPECT_EQ(x, 1);
  }
}

TEST_P(InlineAttentionTest, AZeroQueryGivesTheMeanValue) {
  ExpectClose(Out(Inline(q_ * 0.0, k_, v_)), MeanOver(v_, 1));
}

TEST_P(InlineAttentionTest, WhatAllKeysShareDoesNotCount) {
  const std::vector<int64_t> first(kT, 0);
  const Array shared = Normal({kB, 1, kH, kK}).Take(1, first);
  ExpectClose(Out(Inline(q_, k_ + shared, v_)), Out(Inline(q_, k_, v_)));
}

TEST_P(InlineAttentionTest, ALongerQueryIsAnotherQuery) {
  const auto both = [this](const Array& q) { return Out(Inline(q, k_, v_).Set("kernel", "relu")); };
  EXPECT_GT(RelativeError(both(q_ * 2), both(q_)), 1e-2);
  const auto normalised = [this](const Array& q) {
    CallBuilder call = Call("linear_attention").In("q", q).In("k", k_).In("v", v_);
    return Out(call.Set("feature_map", "relu")
                   .Set("normalize", true)
                   .Set("causal", false)
                   .Set("eps", 0.0));
  };
  const Array q = q_.Map([](double x) { return std::abs(x); });
  ExpectClose(normalised(q * 2), normalised(q));
}

TEST_P(InlineAttentionTest, ACentreTapAddsTheValues) {
  Array taps({kB, kH, kV, 3, 3});
  for (size_t i = 4; i < taps.values().size(); i += 9) taps.values()[i] = 1;
  ExpectClose(Out(OnImage().In("local_weight", taps)), Out(Inline(q_, k_, v_)) + v_);
}

TEST_P(InlineAttentionTest, PrefixTokensStayOutOfTheImage) {
  Array taps({kB, kH, kV, 3, 3});
  for (size_t i = 4; i < taps.values().size(); i += 9) taps.values()[i] = 1;
  const Array o = Out(Inline(q_, k_, v_)
                          .In("local_weight", taps)
                          .Set("num_prefix", 3)
                          .Set("height", 6)
                          .Set("width", 7));
  const Array plain = Out(Inline(q_, k_, v_));
  ExpectClose(o.Slice(1, 0, 3), plain.Slice(1, 0, 3));
  ExpectClose(o.Slice(1, 3, 42), plain.Slice(1, 3, 42) + v_.Slice(1, 3, 42));
}

TEST_P(InlineAttentionTest, PredictsItsKernels) {
  constexpr int64_t kC = kH * kV;
  // W2 = 0: the kernel is the last bias, whatever the input.
  const Array bias = Normal({9 * kC});
  Array taps({kB, kH, kV, 3, 3});
  for (size_t i = 0; i < taps.values().size(); ++i) taps.values()[i] = bias.values()[i % (9 * kC)];
  const CallBuilder predicted = OnImage()
                                    .In("x", Normal({kB, kT, kC}))
                                    .In("res_w1", Normal({kC, kV}))
                                    .In("res_b1", Normal({kC}))
                                    .In("res_w2", Array({9 * kC, kV}))
                                    .In("res_b2", bias);
  ExpectClose(Out(predicted), Out(OnImage().In("local_weight", taps)));
  EXPECT_GT(
      RelativeError(Out(CallBuilder(predicted).In("res_w2", Normal({9 * kC, kV}))), Out(predicted)),
      1e-2);
}

TEST_P(InlineAttentionTest, RefusesWhatDoesNotFit) {
  const Array taps({kB, kH, kV, 3, 3}), x({kB, kT, kH * kV});
  ExpectRefused(OnImage().In("local_weight", taps).In("x", x), "x: given, expected only if");
  ExpectRefused(OnImage().In("x", x), "res_w1: missing");
  ExpectRefused(OnImage().In("res_b1", Array({kH * kV})), "res_b1: given, expected only if");
  ExpectRefused(OnImage().In("x", Array({kB, kT, kH * kV + 1})), "x");
  ExpectRefused(OnImage().In("local_weight", taps).Set("num_prefix", 1), "num_prefix");
  ExpectRefused(Inline(q_, k_, v_).In("local_weight", taps), "height and width");
  ExpectRefused(
      OnImage().In("local_weight", taps).In("k", k_.Slice(1, 0, 5)).In("v", v_.Slice(1, 0, 5)),
      "as many keys as queries");
  ExpectRefused(Inline(q_, k_.Slice(1, 0, 0), v_.Slice(1, 0, 0)), "a size of 0 for S");
  ExpectRefused(Inline(q_, k_, v_).Set("kernel", "silu"), "kernel: given 'silu'");
}

}  // namespace
}  // namespace attnd::testing
