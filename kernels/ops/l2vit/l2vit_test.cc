// What the mixers of L2ViT promise.
#include <cmath>

#include "kernels/testing/pairwise_mean.h"
#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kHeight = 5, kWidth = 9, kT = kHeight * kWidth, kH = 2, kK = 8, kV = 6,
                  kC = 7;

class L2vitTest : public PropertyTest {
 protected:
  CallBuilder Global(const Array& q, const Array& k, const Array& v) const {
    return Call("l2vit").In("q", q).In("k", k).In("v", v);
  }
  CallBuilder Window(int64_t window) const {
    return Global(q_, k_, v_)
        .Set("mode", "window")
        .Set("height", kHeight)
        .Set("width", kWidth)
        .Set("window", window);
  }
  static Array CentreTap(int64_t rows, int64_t columns) {
    Array weight({kC, rows, columns});
    for (int64_t c = 0; c < kC; ++c) weight(c, rows / 2, columns / 2) = 1;
    return weight;
  }
  CallBuilder Local(const Array& x) const {
    const Array ones({kC}, 1), zeros({kC});
    CallBuilder call = Call("l2vit").In("x", x).Set("mode", "local");
    call.Set("height", kHeight).Set("width", kWidth).Set("bn_eps", 0.0);
    call.In("conv1_weight", CentreTap(7, 7)).In("conv1_bias", zeros).In("bn_weight", ones);
    call.In("bn_bias", zeros).In("bn_mean", zeros).In("bn_var", ones);
    return call.In("conv2_weight", CentreTap(3, 5)).In("conv2_bias", zeros);
  }
  static Array Relu(const Array& x) {
    return x.Map([](double a) { return std::max(a, 0.0); });
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV});
};
INSTANTIATE_PROPERTIES(L2vitTest);

TEST_P(L2vitTest, EqualsItsQuadraticForm) {
  const Array temperature = Normal({kH});
  for (const double floor : {1.0, 40.0, 100.0}) {
    Array weights = PairProducts(Relu(q_), Relu(k_));
    for (size_t row = 0; row < weights.values().size(); row += kT) {
      double sum = 0;
      for (int64_t j = 0; j < kT; ++j) sum += weights.values()[row + j];
      const double factor = temperature(row / kT % kH) / std::max(sum, floor);
      for (int64_t j = 0; j < kT; ++j) weights.values()[row + j] *= factor;
    }
    ExpectClose(Out(Global(q_, k_, v_).In("temperature", temperature).Set("denom_min", floor)),
                WeightedSum(weights, v_));
  }
}

TEST_P(L2vitTest, AboveTheFloorRowsSumToTheTemperature) {
  const auto positive = [](const Array& x) {
    return x.Map([](double a) { return std::abs(a) + 0.1; });
  };
  const Array ones(v_.shape(), 1);
  const CallBuilder call = Global(positive(q_), positive(k_), ones).Set("denom_min", 1e-3);
  ExpectClose(Out(call), ones * (1 / std::sqrt(double{kK})));
  ExpectClose(Out(CallBuilder(call).In("temperature", Array({kH}, 0.3))), ones * 0.3);
}

TEST_P(L2vitTest, BelowTheFloorItIsLinear) {
  const auto below = [this](const Array& k, const Array& v) {
    return Out(Global(q_, k, v).Set("denom_min", 1e6));
  };
  ExpectClose(below(k_, v_ * 3), below(k_, v_) * 3);
  ExpectClose(below(k_ * 3, v_), below(k_, v_) * 3);
}

TEST_P(L2vitTest, NegativeQueriesGiveZero) {
  const Array negative = q_.Map([](double a) { return -std::abs(a); });
  const Array o = Out(Global(negative, k_, v_));
  for (const double x : o.values()) EXPECT_EQ(x, 0);
}

TEST_P(L2vitTest, NoKeysGiveZero) {
  const Array o = Out(Global(q_, k_.Slice(1, 0, 0), v_.Slice(1, 0, 0)));
  EXPECT_EQ(o.shape(), v_.shape());
  for (const double x : o.values()) EXPECT_EQ(x, 0);
}

TEST_P(L2vitTest, AWindowOverTheImageIsSoftmaxAttention) {
  constexpr int64_t kSide = 6;
  const Array q = Normal({kB, kSide * kSide, kH, kK}), k = Normal(q.shape()),
              v = Normal({kB, kSide * kSide, kH, kV});
  ExpectClose(Out(Global(q, k, v)
                      .Set("mode", "window")
                      .Set("height", kSide)
                      .Set("width", kSide)
                      .Set("window", kSide)
                      .Set("scale", 0.4)),
              Out(Call("softmax_attention").In("q", q).In("k", k).In("v", v).Set("scale", 0.4)));
}

TEST_P(L2vitTest, OtherWindowsHaveNoInfluence) {
  Array k = k_, v = v_;
  for (int64_t i = 0; i < kT; ++i) {  // All but the window of rows 3, 4 and columns 3 to 5.
    if (i / kWidth >= 3 && i % kWidth / 3 == 1) continue;
    for (int64_t h = 0; h < kH; ++h) k(0, i, h, 0) += 5, v(0, i, h, 0) += 5;
  }
  const Array before = Out(Window(3));
  const Array after = Out(Window(3).In("k", k).In("v", v));
  for (int64_t row = 3; row < kHeight; ++row) {
    const int64_t begin = row * kWidth + 3;
    EXPECT_EQ(after.Slice(1, begin, 3).values(), before.Slice(1, begin, 3).values());
  }
  EXPECT_GT(RelativeError(after.Slice(1, 0, 3), before.Slice(1, 0, 3)), 1e-2);
}

TEST_P(L2vitTest, PaddingTakesWeight) {
  const Array pad_k = Normal({kH, kK}), pad_v = Normal({kH, kV});
  const Array without = Out(Window(4)), with = Out(Window(4).In("pad_k", pad_k).In("pad_v", pad_v));
  // The first windows are whole, those of the last row and column are not.
  ExpectClose(with.Slice(1, 0, 8), without.Slice(1, 0, 8));
  EXPECT_GT(RelativeError(with.Slice(1, 8, 1), without.Slice(1, 8, 1)), 1e-2);
  // The last token's window has 1 x 1 tokens of its own and 15 of padding.
  const Array o = with.Slice(1, kT - 1, 1);
  for (int64_t h = 0; h < kH; ++h) {
    Array q = q_, k = k_, pad = pad_k;
    const double own =
        std::exp(Dot(&q(0, kT - 1, h), &k(0, kT - 1, h), kK) / std::sqrt(double{kK}));
    const double padded = 15 * std::exp(Dot(&q(0, kT - 1, h), &pad(h), kK) / std::sqrt(double{kK}));
    for (int64_t c = 0; c < kV; ++c) {
      EXPECT_NEAR(o(0, 0, h, c),
                  (own * v_(0, kT - 1, h, c) + padded * pad_v(h, c)) / (own + padded), 1e-5);
    }
  }
}

TEST_P(L2vitTest, CentreTapsLeaveTheGelu) {
  const Array x = Normal({kB, kT, kC});
  ExpectClose(Out(Local(x)),
              x.Map([](double a) { return a * (1 + std::erf(a / std::sqrt(2.0))) / 2; }));
}

TEST_P(L2vitTest, NormsBetweenTheConvolutions) {
  const Array x = Normal({kB, kT, kC}), mean = Normal({kC}), weight = Normal({kC});
  const Array variance = Uniform({kC}, 0.1, 2), bias = Normal({kC});
  const Array plain = Out(Local(x));
  Array expected = plain;
  for (size_t i = 0; i < expected.values().size(); ++i) {
    const size_t c = i % kC;
    double& y = expected.values()[i];
    y = (y - mean.values()[c]) / std::sqrt(variance.values()[c] + 1e-2) * weight.values()[c] +
        bias.values()[c];
  }
  ExpectClose(Out(Local(x)
                      .In("bn_mean", mean)
                      .In("bn_var", variance)
                      .In("bn_weight", weight)
                      .In("bn_bias", bias)
                      .Set("bn_eps", 1e-2)),
              expected);
}

TEST_P(L2vitTest, RefusesInputsOfOtherModes) {
  const Array x = Normal({kB, kT, kC});
  ExpectRefused(Global(q_, k_, v_).In("x", x), "x: given, expected only if mode == 'local'");
  ExpectRefused(Local(x).In("q", q_), "q: given, expected only if mode != 'local'");
  ExpectRefused(Global(q_, k_, v_).In("pad_k", Array({kH, kK})), "pad_k: given");
  ExpectRefused(Window(3).In("temperature", Array({kH})), "temperature: given");
  ExpectRefused(Global(q_, k_, v_).Set("denom_min", 0.0), "denom_min: given 0");
  ExpectRefused(Window(0), "window: given 0");
  ExpectRefused(Window(3).In("k", k_.Slice(1, 0, 3)).In("v", v_.Slice(1, 0, 3)),
                "as many keys as queries");
  ExpectRefused(Window(3).Set("height", 4), "height * width");
  ExpectRefused(Local(x).Set("width", 4), "height * width");
  ExpectRefused(Local(x).In("conv1_weight", Array({kC, 2, 3})), "odd kernel sizes");
  Array variance({kC}, 1);
  variance(2) = -0.5;
  ExpectRefused(Local(x).In("bn_var", variance), "bn_var[2]=-0.5, expected variances >= 0");
}

}  // namespace
}  // namespace attnd::testing
