// What magnitude-aware linear attention promises.
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 45, kH = 2, kK = 8, kV = 6;

class MalaTest : public PropertyTest {
 protected:
  CallBuilder Mala(const Array& q, const Array& k, const Array& v) const {
    return Call("mala").In("q", q).In("k", k).In("v", v).Set("eps", 0.0);
  }
  static Array Features(const Array& x) {
    return x.Map([](double a) { return a > 0 ? a + 1 : std::exp(a); });
  }
  // x such that elu(x) + 1 is the given positive value.
  static Array Inverse(const Array& y) {
    return y.Map([](double a) { return a > 1 ? a - 1 : std::log(a); });
  }
  // φ(q_i)·φ(k_j) / (S sqrt(K)), [B,T,H,S].
  static Array Scores(const Array& q, const Array& k) {
    const Array a = Features(q), b = Features(k);
    Array scores({kB, kT, kH, kT});
    for (int64_t n = 0; n < kB; ++n) {
      for (int64_t i = 0; i < kT; ++i) {
        for (int64_t h = 0; h < kH; ++h) {
          for (int64_t j = 0; j < kT; ++j) {
            for (int64_t c = 0; c < kK; ++c) scores(n, i, h, j) += a(n, i, h, c) * b(n, j, h, c);
            scores(n, i, h, j) /= kT * std::sqrt(double{kK});
          }
        }
      }
    }
    return scores;
  }
  // The weights of the keys for query i of batch row 0 and head 0, read off one-hot values.
  Array Weights(const Array& q) const {
    Array one_hot({kB, kT, kH, kT});
    for (int64_t j = 0; j < kT; ++j) one_hot(0, j, 0, j) = 1;
    return Out(Mala(q, k_, one_hot)).Slice(0, 0, 1).Slice(2, 0, 1).Reshape({kT, kT});
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV});
};
INSTANTIATE_PROPERTIES(MalaTest);

TEST_P(MalaTest, EqualsItsQuadraticForm) {
  for (const double eps : {0.0, 1e-2}) {
    const Array a = Scores(q_, k_);
    Array expected({kB, kT, kH, kV});
    for (int64_t n = 0; n < kB; ++n) {
      for (int64_t i = 0; i < kT; ++i) {
        for (int64_t h = 0; h < kH; ++h) {
          double z = 0;
          for (int64_t j = 0; j < kT; ++j) z += a(n, i, h, j);
          for (int64_t j = 0; j < kT; ++j) {
            const double weight = (1 + 1 / (z + eps)) * a(n, i, h, j) - z / kT;
            for (int64_t c = 0; c < kV; ++c) expected(n, i, h, c) += weight * v_(n, j, h, c);
          }
        }
      }
    }
    ExpectClose(Out(Mala(q_, k_, v_).Set("eps", eps)), expected);
  }
}

TEST_P(MalaTest, WeightsSumToOne) {
  const Array ones(v_.shape(), 1);
  ExpectClose(Out(Mala(q_, k_, ones)), ones);
}

TEST_P(MalaTest, EqualKeysGiveTheMeanValue) {
  const std::vector<int64_t> first(kT, 0);
  Array mean({kB, kT, kH, kV});
  for (int64_t n = 0; n < kB; ++n) {
    for (int64_t i = 0; i < kT; ++i) {
      for (int64_t h = 0; h < kH; ++h) {
        for (int64_t c = 0; c < kV; ++c) {
          for (int64_t j = 0; j < kT; ++j) mean(n, i, h, c) += v_(n, j, h, c) / kT;
        }
      }
    }
  }
  ExpectClose(Out(Mala(q_, k_.Take(1, first), v_)), mean);
}

TEST_P(MalaTest, WithoutMagnitudeItIsNormalisedLinearAttention) {
  // As the scale goes to 0, z does, and what is left is a_ij / z_i.
  ExpectClose(Out(Mala(q_, k_, v_).Set("scale", exact() ? 1e-12 : 1e-7)),
              Out(Call("linear_attention")
                      .In("q", q_)
                      .In("k", k_)
                      .In("v", v_)
                      .Set("feature_map", "elu1")
                      .Set("normalize", true)
                      .Set("causal", false)));
}

TEST_P(MalaTest, ALongerQuerySpreadsItsWeights) {
  const auto variance = [this](double length) {
    const Array weights = Weights(Inverse(Features(q_) * length));
    double sum = 0;  // The mean is 1/T: the weights sum to one.
    for (const double w : weights.values()) sum += (w - 1.0 / kT) * (w - 1.0 / kT);
    return sum;
  };
  const double one = variance(1), two = variance(2), four = variance(4);
  EXPECT_GT(two, 1.5 * one);
  EXPECT_GT(four, 1.5 * two);
}

TEST_P(MalaTest, FollowsPermutationsOfTheTokens) {
  const std::vector<int64_t> order = Permutation(kT);
  ExpectClose(Out(Mala(q_.Take(1, order), k_.Take(1, order), v_.Take(1, order))),
              Out(Mala(q_, k_, v_)).Take(1, order));
}

TEST_P(MalaTest, TheGateComesLast) {
  const Array gate = Normal(v_.shape());
  ExpectClose(Out(Mala(q_, k_, v_).In("gate", gate)), Out(Mala(q_, k_, v_)) * gate);
}

TEST_P(MalaTest, RefusesImagesThatDoNotFit) {
  const CallBuilder call = Mala(q_, k_, v_);
  const Array six = Normal({kB, kT, kH, 6});
  ExpectRefused(CallBuilder(call).Set("rope", "axial2d"), "height and width");
  ExpectRefused(CallBuilder(call).Set("rope", "axial2d").Set("height", 5).Set("width", 8),
                "height * width");
  ExpectRefused(Mala(six, six, v_).Set("rope", "axial2d").Set("height", 5).Set("width", 9),
                "multiple of 4");
  ExpectRefused(CallBuilder(call).In("lepe_weight", Array({kH * kV, 3, 3})), "height and width");
  ExpectRefused(
      CallBuilder(call).In("lepe_weight", Array({kH * kV, 2, 3})).Set("height", 5).Set("width", 9),
      "odd kernel sizes");
  ExpectRefused(CallBuilder(call).In("lepe_bias", Array({kH * kV})), "lepe_bias: given");
}

}  // namespace
}  // namespace attnd::testing
