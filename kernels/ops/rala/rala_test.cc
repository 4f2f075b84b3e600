// What linear attention with weighted keys promises.
#include <cmath>

#include "kernels/testing/pairwise_mean.h"
#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 45, kH = 2, kK = 8, kV = 6;

class RalaTest : public PropertyTest {
 protected:
  CallBuilder Rala(const Array& q, const Array& k, const Array& v) const {
    return Call("rala").In("q", q).In("k", k).In("v", v).Set("eps", 0.0);
  }
  // The keys' features times their weights.
  static Array WeightedKeys(const Array& q, const Array& k, double scale) {
    Array pooled = MeanOver(Elu1(q), 1);
    Array features = Elu1(k);
    Array weighted = features;
    for (int64_t n = 0; n < kB; ++n) {
      for (int64_t h = 0; h < kH; ++h) {
        std::vector<double> weight;
        double sum = 0;
        for (int64_t j = 0; j < k.dim(1); ++j) {
          weight.push_back(std::exp(scale * Dot(&pooled(n, 0, h), &features(n, j, h), kK)));
          sum += weight.back();
        }
        for (int64_t j = 0; j < k.dim(1); ++j) {
          for (int64_t c = 0; c < kK; ++c) {
            weighted(n, j, h, c) *= weight[j] / sum * static_cast<double>(k.dim(1));
          }
        }
      }
    }
    return weighted;
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV});
};
INSTANTIATE_PROPERTIES(RalaTest);

TEST_P(RalaTest, EqualsItsQuadraticForm) {
  for (const double eps : {0.0, 1e-2}) {
    const Array products = PairProducts(Elu1(q_), WeightedKeys(q_, k_, 0.3));
    ExpectClose(Out(Rala(q_, k_, v_).Set("eps", eps).Set("scale", 0.3)),
                WeightedSum(MeanNormalised(products, eps), v_));
  }
}

TEST_P(RalaTest, WeightsArePositiveAndSumToOne) {
  const Array ones(v_.shape(), 1);
  ExpectClose(Out(Rala(q_, k_, ones)), ones);
  Array one_hot({kB, kT, kH, kT});
  for (int64_t j = 0; j < kT; ++j) one_hot(0, j, 0, j) = 1;
  const Array weights = Out(Rala(q_, k_, one_hot)).Slice(0, 0, 1).Slice(2, 0, 1);
  for (const double weight : weights.values()) EXPECT_GT(weight, 0);
}

TEST_P(RalaTest, EqualKeysGiveTheMeanValue) {
  const std::vector<int64_t> first(kT, 0);
  ExpectClose(Out(Rala(q_, k_.Take(1, first), v_)), MeanOver(v_, 1));
}

TEST_P(RalaTest, WithoutScaleItIsNormalisedLinearAttention) {
  ExpectClose(Out(Rala(q_, k_, v_).Set("scale", 0.0)), Out(Call("linear_attention")
                                                               .In("q", q_)
                                                               .In("k", k_)
                                                               .In("v", v_)
                                                               .Set("feature_map", "elu1")
                                                               .Set("normalize", true)
                                                               .Set("causal", false)));
}

TEST_P(RalaTest, FollowsPermutationsOfTheTokens) {
  const std::vector<int64_t> order = Permutation(kT);
  ExpectClose(Out(Rala(q_.Take(1, order), k_.Take(1, order), v_.Take(1, order))),
              Out(Rala(q_, k_, v_)).Take(1, order));
}

TEST_P(RalaTest, EveryQueryTakesPartInThePooledOne) {
  const Array half = Out(Rala(q_.Slice(1, 0, 20), k_, v_));
  EXPECT_GT(RelativeError(half, Out(Rala(q_, k_, v_)).Slice(1, 0, 20)), 1e-3);
}

TEST_P(RalaTest, TheGateComesAfterTheConvolution) {
  const Array gate = Normal(v_.shape()), weight = Normal({kH * kV, 3, 5}), bias = Normal({kH * kV});
  const CallBuilder plain = Rala(q_, k_, v_).Set("height", 5).Set("width", 9);
  ExpectClose(Out(CallBuilder(plain).In("gate", Array(v_.shape(), 1))), Out(plain));
  const CallBuilder convolved = CallBuilder(plain).In("lepe_weight", weight).In("lepe_bias", bias);
  ExpectClose(Out(CallBuilder(convolved).In("gate", gate)), Out(convolved) * gate);
}

TEST_P(RalaTest, ACentreTapAddsTheValues) {
  Array weight({kH * kV, 3, 3});
  for (int64_t c = 0; c < kH * kV; ++c) weight(c, 1, 1) = 1;
  const CallBuilder plain = Rala(q_, k_, v_).Set("height", 5).Set("width", 9);
  ExpectClose(Out(CallBuilder(plain).In("lepe_weight", weight)), Out(plain) + v_);
}

TEST_P(RalaTest, RefusesImagesThatDoNotFit) {
  const CallBuilder call = Rala(q_, k_, v_);
  const Array six = Normal({kB, kT, kH, 6});
  ExpectRefused(CallBuilder(call).Set("rope", "axial3d"), "rope: given 'axial3d'");
  ExpectRefused(CallBuilder(call).Set("rope", "axial2d"), "height and width");
  ExpectRefused(CallBuilder(call).Set("rope", "axial2d").Set("height", 5).Set("width", 8),
                "height * width");
  ExpectRefused(Rala(six, six, v_).Set("rope", "axial2d").Set("height", 5).Set("width", 9),
                "multiple of 4");
  ExpectRefused(CallBuilder(call).In("lepe_weight", Array({kH * kV, 3, 3})), "height and width");
  ExpectRefused(
      CallBuilder(call).In("lepe_weight", Array({kH * kV, 2, 3})).Set("height", 5).Set("width", 9),
      "odd kernel sizes");
  ExpectRefused(CallBuilder(call).In("lepe_bias", Array({kH * kV})), "lepe_bias: given");
  const Array fewer = k_.Slice(1, 0, kT - 1), values = v_.Slice(1, 0, kT - 1);
  ExpectRefused(Rala(q_, fewer, values).Set("rope", "axial2d").Set("height", 5).Set("width", 9),
                "as many keys as queries");
  ExpectRefused(Rala(q_, k_.Slice(1, 0, 0), v_.Slice(1, 0, 0)), "at least one key");
}

}  // namespace
}  // namespace attnd::testing
