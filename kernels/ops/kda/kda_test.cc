// What Kimi delta attention promises.
#include "kernels/testing/delta_property_test.h"

namespace attnd::testing {
namespace {

class KdaTest : public DeltaPropertyTest {
 protected:
  CallBuilder Kda(const Array& q, const Array& k, const Array& v, const Array& g) const {
    return Call("kda").In("q", q).In("k", k).In("v", v).In("g", g);
  }
  CallBuilder Kda(const Array& g) const { return Kda(q_, k_, v_, g); }
  MakeCall kda() {
    return [this](const Array& q, const Array& k, const Array& v) { return Kda(q, k, v, g_); };
  }
  const Array g_ = Uniform({kB, kT, kH, kK}, -0.5, 0);
};
INSTANTIATE_PROPERTIES(KdaTest);

TEST_P(KdaTest, TokensReadWhatTheyWroteWhateverTheGate) { ExpectTokensReadWhatTheyWrote(kda()); }

TEST_P(KdaTest, NothingIsWrittenWithoutBeta) { ExpectNothingIsWrittenWithoutBeta(kda(), g_); }

TEST_P(KdaTest, EqualsItsDenseTransition) {
  ExpectTheDenseTransition(Kda(g_).In("beta", beta_).In("initial_state", state_), g_, beta_);
}

TEST_P(KdaTest, StrongGatesStayExact) {
  const Array g = Uniform({kB, kT, kH, kK}, -60, 0);
  ExpectTheDenseTransition(Kda(g).In("beta", beta_).In("initial_state", state_), g, beta_);
}

TEST_P(KdaTest, PreparationInsideEqualsOutside) { ExpectPreparationInsideEqualsOutside(kda()); }

TEST_P(KdaTest, TheSoftplusGateInsideEqualsOutside) {
  const Array raw = Normal({kB, kT, kH, kK}), a_log = Uniform({kH}, -1, 1), bias = Normal({kH, kK});
  Array g = raw;
  ForEachHead([&](int64_t b, int64_t h) {
    for (int64_t t = 0; t < kT; ++t) {
      for (int64_t c = 0; c < kK; ++c) {
        g(b, t, h, c) = -std::exp(a_log(h)) * std::log1p(std::exp(raw(b, t, h, c) + bias(h, c)));
      }
    }
  });
  ExpectSame(Kda(raw).Set("gate", "softplus").In("A_log", a_log).In("dt_bias", bias), Kda(g));
}

TEST_P(KdaTest, TheBoundedGateInsideEqualsOutsideAndKeepsItsBound) {
  const Array raw = Normal({kB, kT, kH, kK}) * 20, a_log = Uniform({kH}, -1, 1);
  for (const double bound : {-5.0, -2.0}) {
    Array g = raw;
    ForEachHead([&](int64_t b, int64_t h) {
      for (int64_t t = 0; t < kT; ++t) {
        for (int64_t c = 0; c < kK; ++c) {
          double& x = g(b, t, h, c);
          x = bound / (1 + std::exp(-std::exp(a_log(h)) * x));
        }
      }
    });
    CallBuilder inside = Kda(raw).Set("gate", "lower_bound").In("A_log", a_log);
    if (bound != -5) inside.Set("lower_bound", bound);
    ExpectSame(inside, Kda(g));
  }
  // Huge projections: after one token the state has kept at least exp(bound) of itself.
  const Array huge({kB, 1, kH, kK}, 1e4);
  const auto one = [](const Array& x) { return x.Slice(1, 0, 1); };
  const Array kept = Out(Kda(one(q_), one(k_), one(v_), huge)
                             .Set("gate", "lower_bound")
                             .In("beta", Array({kB, 1, kH}))
                             .In("initial_state", state_),
                         "final_state");
  ExpectClose(kept, state_ * std::exp(-5));
}

TEST_P(KdaTest, OneDecayPerHeadMakesItTheGatedDeltaRule) {
  const Array g = Uniform({kB, kT, kH}, -0.5, 0);
  ExpectSame(Kda(g.Spread(kK)).In("beta", beta_).In("initial_state", state_),
             Call("gated_delta_rule")
                 .In("q", q_)
                 .In("k", k_)
                 .In("v", v_)
                 .In("g", g)
                 .In("beta", beta_)
                 .In("initial_state", state_));
}

TEST_P(KdaTest, WithoutDecayItIsTheDeltaRule) {
  ExpectSame(Kda(Array({kB, kT, kH, kK})).In("beta", beta_).In("initial_state", state_),
             Call("delta_rule")
                 .In("q", q_)
                 .In("k", k_)
                 .In("v", v_)
                 .In("beta", beta_)
                 .In("initial_state", state_));
}

TEST_P(KdaTest, RefusesGatesThatLackOrMayNotHaveTheirParts) {
  ExpectRefused(Kda(g_).Set("gate", "softplus"), "A_log");
  ExpectRefused(Kda(g_).In("A_log", Array({kH})), "A_log: given, expected only if");
  ExpectRefused(Kda(g_).Set("lower_bound", -3.0), "lower_bound");
  ExpectRefused(Kda(g_).Set("gate", "lower_bound").Set("lower_bound", 0.0), "lower_bound");
  ExpectRefused(Kda(g_).Set("gate", "hard"), "softplus");
  ExpectRefused(Kda(g_).In("beta", Normal({kB, kT, kH, 1})), "beta: given");
  ExpectRefused(Kda(g_).In("beta", beta_).Set("allow_neg_eigval", true), "beta_sigmoid");
}

}  // namespace
}  // namespace attnd::testing
