// What the trained map's attention promises.
#include <algorithm>
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 41, kH = 2, kK = 5, kF = 4, kV = 3;

class HedgehogTest : public PropertyTest {
 protected:
  CallBuilder Hedgehog(const Array& v) {
    return Call("hedgehog").In("q", q_).In("k", k_).In("v", v).In("w_q", w_q_).In("w_k", w_k_);
  }
  CallBuilder Hedgehog() { return Hedgehog(v_); }
  // softmax_dim's features of token x[b,t,h], both halves.
  static std::vector<double> Features(const Array& x, const Array& w, int64_t b, int64_t t,
                                      int64_t h) {
    std::vector<double> up(kF), down(kF);
    double up_sum = 0, down_sum = 0;
    for (int64_t f = 0; f < kF; ++f) {
      double y = 0;
      for (int64_t i = 0; i < kK; ++i) y += x(b, t, h, i) * w(h, i, f);
      up_sum += up[f] = std::exp(y);
      down_sum += down[f] = std::exp(-y);
    }
    for (double& value : up) value /= up_sum;
    for (const double value : down) up.push_back(value / down_sum);
    return up;
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV}), w_q_ = Normal({kH, kK, kF}) * 0.4,
              w_k_ = Normal({kH, kK, kF}) * 0.4;
};
INSTANTIATE_PROPERTIES(HedgehogTest);

TEST_P(HedgehogTest, IsItsQuadraticForm) {
  for (const bool causal : {true, false}) {
    Array o(v_.shape());
    for (int64_t b = 0; b < kB; ++b) {
      for (int64_t h = 0; h < kH; ++h) {
        for (int64_t t = 0; t < kT; ++t) {
          const std::vector<double> q = Features(q_, w_q_, b, t, h);
          double sum = 0;
          for (int64_t s = 0; s < (causal ? t + 1 : kT); ++s) {
            const std::vector<double> k = Features(k_, w_k_, b, s, h);
            const double weight = Dot(q.data(), k.data(), 2 * kF);
            sum += weight;
            for (int64_t j = 0; j < kV; ++j) o(b, t, h, j) += weight * v_(b, s, h, j);
          }
          for (int64_t j = 0; j < kV; ++j) o(b, t, h, j) /= sum;
        }
      }
    }
    ExpectClose(Out(Hedgehog().Set("causal", causal)), o);
  }
}

TEST_P(HedgehogTest, EqualValuesComeBack) {
  const Array ones(v_.shape(), 1);
  for (const char* activation : {"softmax_dim", "exp_dim", "exp", "softmax_joint"}) {
    for (const bool fullspace : {true, false}) {
      ExpectClose(Out(Hedgehog(ones)
                          .Set("activation", std::string(activation))
                          .Set("fullspace", fullspace)),
                  ones);
    }
  }
}

TEST_P(HedgehogTest, TheOrderOfAllKeysDoesNotMatter) {
  const std::vector<int64_t> order = Permutation(kT);
  const CallBuilder call = Hedgehog().Set("causal", false);
  ExpectClose(Out(CallBuilder(call).In("k", k_.Take(1, order)).In("v", v_.Take(1, order))),
              Out(call));
}

// A constant added to all features of q and k before the exponentials, through biases.
TEST_P(HedgehogTest, OnlySomeMapsSeeAConstant) {
  const Array none({kH, kF}), some({kH, kF}, 0.7);
  const auto out = [&](const char* activation, const Array& bias) {
    return Out(
        Hedgehog().Set("activation", std::string(activation)).In("b_q", bias).In("b_k", bias));
  };
  for (const char* blind : {"softmax_dim", "exp_dim"}) {
    ExpectClose(out(blind, some), out(blind, none));
  }
  for (const char* seeing : {"exp", "softmax_joint"}) {
    EXPECT_GT(RelativeError(out(seeing, some), out(seeing, none)), 1e-3) << seeing;
  }
}

TEST_P(HedgehogTest, IdentityAndExpGiveHyperbolicCosines) {
  Array identity({kH, kK, kK}), o(v_.shape());
  for (int64_t h = 0; h < kH; ++h) {
    for (int64_t i = 0; i < kK; ++i) identity(h, i, i) = 1;
  }
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t h = 0; h < kH; ++h) {
      for (int64_t t = 0; t < kT; ++t) {
        double sum = 0;
        for (int64_t s = 0; s <= t; ++s) {
          double weight = 0;
          for (int64_t i = 0; i < kK; ++i) weight += 2 * std::cosh(q_(b, t, h, i) + k_(b, s, h, i));
          sum += weight;
          for (int64_t j = 0; j < kV; ++j) o(b, t, h, j) += weight * v_(b, s, h, j);
        }
        for (int64_t j = 0; j < kV; ++j) o(b, t, h, j) /= sum;
      }
    }
  }
  // Tied: no w_k.
  ExpectClose(Out(Call("hedgehog")
                      .In("q", q_)
                      .In("k", k_)
                      .In("v", v_)
                      .In("w_q", identity)
                      .Set("activation", std::string("exp"))),
              o);
}

// Of one half the shared normaliser is the half's own.
TEST_P(HedgehogTest, DoubledWeightsAreHalvesOfTheJointSoftmax) {
  const CallBuilder half = Hedgehog().Set("fullspace", false);
  ExpectClose(Out(CallBuilder(half).In("w_q", w_q_ * 2).In("w_k", w_k_ * 2)),
              Out(CallBuilder(half).Set("activation", std::string("softmax_joint"))));
}

TEST_P(HedgehogTest, SharedHeadsAreRepeated) {
  const Array k = k_.Slice(2, 0, 1), v = v_.Slice(2, 0, 1);
  ExpectClose(Out(Hedgehog().In("k", k).In("v", v)),
              Out(Hedgehog().In("k", k.Repeat(2, kH)).In("v", v.Repeat(2, kH))));
}

TEST_P(HedgehogTest, RefusesWhatDoesNotFit) {
  ExpectRefused(Hedgehog().In("w_q", Normal({kH + 1, kK, kF})), "w_q: given [3,5,4]");
  ExpectRefused(Hedgehog().In("w_k", Normal({kH, kK, kF + 1})), "w_k: given [2,5,5]");
  ExpectRefused(Hedgehog().In("initial_state_z", Normal({kB, kH, 2 * kF})),
                "initial_state_z: given, expected only if");
  ExpectRefused(Hedgehog().In("initial_state", Normal({kB, kH, 2 * kF, kV})).Set("causal", false),
                "initial_state: given, expected only if causal");
  ExpectRefused(Hedgehog().Set("activation", std::string("relu")), "activation: given");
}

}  // namespace
}  // namespace attnd::testing
