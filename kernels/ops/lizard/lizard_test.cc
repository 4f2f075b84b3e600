// What the gated branch and the anchored window promise.
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 45, kH = 2, kK = 5, kF = 4, kV = 3, kP = 4;

class LizardTest : public PropertyTest {
 protected:
  CallBuilder Lizard(double gate, double alpha) {
    return Call("lizard")
        .In("q", q_)
        .In("k", k_)
        .In("v", v_)
        .In("w_q", w_q_)
        .In("w_k", w_k_)
        .In("gate", Array({kB, kT, 1}, gate))
        .In("alpha", Array({1}, alpha));
  }
  CallBuilder Softmax() {
    return Call("softmax_attention").In("q", q_).In("k", k_).In("v", v_).Set("causal", true);
  }
  // The window's branch alone.
  Array Anchor(const CallBuilder& call) {
    return Out(call) + Out(CallBuilder(call).In("alpha", Array({1}, 0))) * -1;
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV}), w_q_ = Normal({kH, kK, kF}) * 0.4,
              w_k_ = Normal({kH, kK, kF}) * 0.4;
};
INSTANTIATE_PROPERTIES(LizardTest);

TEST_P(LizardTest, OpenGatesAreHedgehog) {
  for (const char* activation : {"softmax_dim", "exp"}) {
    const CallBuilder hedgehog =
        Call("hedgehog").In("q", q_).In("k", k_).In("v", v_).In("w_q", w_q_).In("w_k", w_k_);
    ExpectClose(Out(Lizard(1e4, 0).Set("activation", std::string(activation))),
                Out(CallBuilder(hedgehog).Set("activation", std::string(activation))));
  }
}

TEST_P(LizardTest, ClosedGatesGiveTheOwnValue) { ExpectClose(Out(Lizard(-1e4, 0)), v_); }

TEST_P(LizardTest, TheWindowIsSoftmaxWithSinks) {
  const Array meta = Normal({kH, kP});
  Array sinks({kH});
  for (int64_t h = 0; h < kH; ++h) {
    for (int64_t m = 0; m < kP; ++m) sinks(h) += std::exp(meta(h, m));
    sinks(h) = std::log(sinks(h));
  }
  const CallBuilder call = Lizard(-1e4, 2).Set("window", int64_t{7}).In("meta", meta);
  ExpectClose(Anchor(call), Out(Softmax().Set("window_left", int64_t{6}).In("sinks", sinks)) * 2);
  // The same mass, in linear space.
  const Array mass = meta.Map([](double x) { return std::exp(x); });
  ExpectClose(Out(Lizard(-1e4, 2)
                      .Set("window", int64_t{7})
                      .In("meta", mass)
                      .Set("meta_space", std::string("linear"))),
              Out(call));
  const Array one = Normal({kP});
  ExpectClose(Out(Lizard(0, 2).In("meta", one)),
              Out(Lizard(0, 2).In("meta", one.Reshape({1, kP}).Repeat(0, kH))));
}

TEST_P(LizardTest, SinksWithoutMassAreNone) {
  const CallBuilder none = Lizard(0.5, 1).Set("window", int64_t{9});
  ExpectClose(Out(CallBuilder(none).In("meta", Array({kP}, -1e4))), Out(none));
  ExpectClose(Out(CallBuilder(none).In("meta", Array({0}))), Out(none));
  ExpectClose(Anchor(none), Out(Softmax().Set("window_left", int64_t{8})));
}

TEST_P(LizardTest, IsItsQuadraticForm) {
  const Array gate = Normal({kB, kT, kH});
  Array o(v_.shape());
  const auto features = [&](const Array& x, const Array& w, int64_t b, int64_t t, int64_t h) {
    std::vector<double> phi(2 * kF);
    for (int64_t f = 0; f < kF; ++f) {
      double y = 0;
      for (int64_t i = 0; i < kK; ++i) y += x(b, t, h, i) * w(h, i, f);
      phi[f] = std::exp(y);
      phi[kF + f] = std::exp(-y);
    }
    return phi;
  };
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t h = 0; h < kH; ++h) {
      for (int64_t t = 0; t < kT; ++t) {
        const std::vector<double> q = features(q_, w_q_, b, t, h);
        double total = 0, decay = 0;
        for (int64_t s = t; s >= 0; --s) {
          const std::vector<double> k = features(k_, w_k_, b, s, h);
          const double weight = Dot(q.data(), k.data(), 2 * kF) * std::exp(decay);
          total += weight;
          for (int64_t j = 0; j < kV; ++j) o(b, t, h, j) += weight * v_(b, s, h, j);
          decay -= std::log1p(std::exp(-gate(b, s, h)));
        }
        for (int64_t j = 0; j < kV; ++j) o(b, t, h, j) /= total;
      }
    }
  }
  ExpectClose(Out(Lizard(0, 0).In("gate", gate).Set("activation", std::string("exp"))), o);
}

TEST_P(LizardTest, RotatedFormsAreTheWindowsAlone) {
  const Array q = Normal(q_.shape()), k = Normal(k_.shape());
  ExpectClose(Anchor(Lizard(0, 1).In("q_rope", q).In("k_rope", k)),
              Out(Softmax().In("q", q).In("k", k)));
}

TEST_P(LizardTest, RefusesWhatDoesNotFit) {
  ExpectRefused(Lizard(0, 1).Set("window", int64_t{0}), "window: given 0");
  ExpectRefused(Lizard(0, 1).In("gate", Normal({kB, kT, kH + 1})), "a gate for each token");
  ExpectRefused(Lizard(0, 1).Set("meta_space", std::string("log")), "meta_space: given");
  ExpectRefused(Lizard(0, 1).In("q_rope", q_), "q_rope and k_rope together");
  ExpectRefused(Lizard(0, 1).In("initial_state", Normal({kB, kH, 2 * kF, kV})),
                "all of the state, or none of it");
  ExpectRefused(Lizard(0, 1).In("alpha", Normal({kH + 1})), "a weight for all heads");
}

}  // namespace
}  // namespace attnd::testing
