// What norm-aware linear attention promises.
#include <cmath>

#include "kernels/testing/pairwise_mean.h"
#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 45, kH = 2, kK = 8, kV = 6;

class NalaformerTest : public PropertyTest {
 protected:
  CallBuilder Nala(const Array& q, const Array& k, const Array& v) const {
    return Call("nalaformer").In("q", q).In("k", k).In("v", v).Set("eps", 0.0);
  }
  // [..,K] -> [..,2K]: channels to a power of their row, positive and negative ones apart.
  static Array Split(const Array& x, const std::function<double(const double* row)>& power) {
    Array out({x.dim(0), x.dim(1), x.dim(2), 2 * kK});
    for (int64_t i = 0; i < static_cast<int64_t>(x.values().size()); ++i) {
      const double value = x.values()[i];
      const double magnitude = std::pow(std::abs(value), power(&x.values()[i / kK * kK]));
      out.values()[i / kK * 2 * kK + i % kK + (value > 0 ? 0 : kK)] = magnitude;
    }
    return out;
  }
  static Array QueryFeatures(const Array& q) {
    const Array unit = q.Unit();
    Array out({q.dim(0), q.dim(1), q.dim(2), 2 * kK});
    for (int64_t i = 0; i < static_cast<int64_t>(q.values().size()); ++i) {
      const double* row = &q.values()[i / kK * kK];
      const double power = 3 * (0.5 + std::tanh(std::sqrt(Dot(row, row, kK))));
      const double u = unit.values()[i];
      out.values()[i / kK * 2 * kK + i % kK + (u > 0 ? 0 : kK)] = std::pow(std::abs(u), power);
    }
    return out;
  }
  static Array KeyFeatures(const Array& k) {
    return Split(k, [](const double*) { return 3.0; });
  }
  // Read off one-hot values: row of every query of batch row 0, head 0.
  Array Weights(const Array& q, const Array& k) const {
    Array one_hot({kB, kT, kH, kT});
    for (int64_t j = 0; j < kT; ++j) one_hot(0, j, 0, j) = 1;
    return Out(Nala(q, k, one_hot)).Slice(0, 0, 1).Slice(2, 0, 1).Reshape({kT, kT});
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV});
};
INSTANTIATE_PROPERTIES(NalaformerTest);

TEST_P(NalaformerTest, EqualsItsQuadraticForm) {
  const Array products = PairProducts(QueryFeatures(q_), KeyFeatures(k_));
  for (const double eps : {0.0, 1e-2}) {
    ExpectClose(Out(Nala(q_, k_, v_).Set("eps", eps)),
                WeightedSum(MeanNormalised(products, eps), v_));
  }
}

TEST_P(NalaformerTest, FeaturesKeepNorms) {
  // With equal signs and power 1 the product of a query's and a key's features is that of the
  // direction and the signed key: eps far above it leaves it readable.
  const double eps = 1e6;
  const Array o = Out(Nala(q_, q_, Array({kB, kT, kH, 1}, 1))
                          .Set("key_power", 1.0)
                          .Set("power_scale", 1e-12)
                          .Set("power_shift", 1e12)
                          .Set("eps", eps));
  const Array u = q_.Unit();
  const auto positive = [](const Array& x) {
    return x.Map([](double a) { return std::max(a, 0.0); });
  };
  const Array plus = PairProducts(positive(u), positive(q_));
  const Array minus = PairProducts(positive(u * -1.0), positive(q_ * -1.0));
  Array expected({kB, kT, kH, 1});
  for (int64_t row = 0; row < kB * kT * kH; ++row) {
    double mean = 0;
    for (int64_t j = 0; j < kT; ++j) {
      mean += (plus.values()[row * kT + j] + minus.values()[row * kT + j]) / kT;
    }
    expected.values()[row] = mean / (mean + eps);
  }
  ExpectClose(o, expected);
  const Array features = KeyFeatures(k_);
  for (const double x : features.values()) EXPECT_GE(x, 0);
}

TEST_P(NalaformerTest, WeightsAreNotNegativeAndSumToOne) {
  const Array ones(v_.shape(), 1);
  ExpectClose(Out(Nala(q_, k_, ones)), ones);
  const Array weights = Weights(q_, k_);
  for (const double weight : weights.values()) EXPECT_GE(weight, 0);
}

TEST_P(NalaformerTest, OppositeSignsDoNotMeet) {
  // Query 0 and key 7 have opposite signs in every channel.
  Array k = k_;
  for (int64_t c = 0; c < kK; ++c) k(0, 7, 0, c) = -q_(0, 0, 0, c);
  EXPECT_EQ(Weights(q_, k)(0, 7), 0);
  EXPECT_GT(Weights(q_, k_)(0, 8), 0);
}

TEST_P(NalaformerTest, ALongerQuerySpreadsLess) {
  const auto entropy = [this](double length) {
    const Array weights = Weights(q_.Unit() * length, k_);
    double sum = 0;
    for (const double w : weights.values()) sum -= w > 0 ? w * std::log(w) : 0;
    return sum / kT;
  };
  const double one = entropy(0.1), two = entropy(0.4), four = entropy(1.6);
  EXPECT_LT(two, one - 1e-3);
  EXPECT_LT(four, two - 1e-3);
}

TEST_P(NalaformerTest, AZeroQueryGivesZero) {
  Array q = q_;
  for (int64_t c = 0; c < kK; ++c) q(1, 3, 1, c) = 0;
  const Array o = Out(Nala(q, k_, v_).Set("eps", 1e-6));
  for (int64_t c = 0; c < kV; ++c) {
    EXPECT_EQ(o(1, 3, 1, c), 0);
    EXPECT_NE(o(1, 4, 1, c), 0);
  }
}

TEST_P(NalaformerTest, NormsAndGatesLast) {
  const Array gate = Normal(v_.shape());
  const Array weight = Normal({kH * kV}), bias = Normal({kH * kV});
  const Array plain = Out(Nala(q_, k_, v_));
  Array expected = plain;
  constexpr int64_t kChannels = kH * kV;
  for (int64_t row = 0; row < kB * kT; ++row) {
    double* at = &expected.values()[row * kChannels];
    double mean = 0, variance = 0;
    for (int64_t c = 0; c < kChannels; ++c) mean += at[c] / kChannels;
    for (int64_t c = 0; c < kChannels; ++c) variance += (at[c] - mean) * (at[c] - mean) / kChannels;
    for (int64_t c = 0; c < kChannels; ++c) {
      const double g = gate.values()[row * kChannels + c];
      at[c] = ((at[c] - mean) / std::sqrt(variance + 1e-2) * weight(c) + bias(c)) * g /
              (1 + std::exp(-g));
    }
  }
  ExpectClose(Out(Nala(q_, k_, v_)
                      .In("norm_weight", weight)
                      .In("norm_bias", bias)
                      .In("gate", gate)
                      .Set("norm_eps", 1e-2)),
              expected);
}

TEST_P(NalaformerTest, RefusesHalfANormAndPowersOfNothing) {
  const CallBuilder call = Nala(q_, k_, v_);
  ExpectRefused(CallBuilder(call).In("norm_weight", Array({kH * kV})), "norm_weight and norm_bias");
  ExpectRefused(CallBuilder(call).In("norm_bias", Array({kH * kV})), "norm_weight and norm_bias");
  ExpectRefused(CallBuilder(call).Set("power_shift", 0.0), "power_shift: given 0");
  ExpectRefused(CallBuilder(call).Set("power_scale", -1.0), "power_scale: given -1");
  ExpectRefused(CallBuilder(call).Set("key_power", 0.0), "key_power: given 0");
  ExpectRefused(CallBuilder(call).Set("rope", "axial2d"), "height and width");
  ExpectRefused(CallBuilder(call).In("lepe_bias", Array({kH * kV})), "lepe_bias: given");
  ExpectRefused(CallBuilder(call).Set("scale", 1.0), "scale");
}

}  // namespace
}  // namespace attnd::testing
