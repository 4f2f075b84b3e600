// What the gated delta rule promises.
#include <limits>

#include "kernels/testing/delta_property_test.h"

namespace attnd::testing {
namespace {

class GatedDeltaRuleTest : public DeltaPropertyTest {
 protected:
  CallBuilder Gated(const Array& q, const Array& k, const Array& v, const Array& g) const {
    return Call("gated_delta_rule").In("q", q).In("k", k).In("v", v).In("g", g);
  }
  CallBuilder Gated(const Array& g) const { return Gated(q_, k_, v_, g); }
  MakeCall gated() {
    return [this](const Array& q, const Array& k, const Array& v) { return Gated(q, k, v, g_); };
  }
  const Array g_ = Uniform({kB, kT, kH}, -0.5, 0);
};
INSTANTIATE_PROPERTIES(GatedDeltaRuleTest);

TEST_P(GatedDeltaRuleTest, TokensReadWhatTheyWroteWhateverTheGate) {
  ExpectTokensReadWhatTheyWrote(gated());
}

TEST_P(GatedDeltaRuleTest, NothingIsWrittenWithoutBeta) {
  ExpectNothingIsWrittenWithoutBeta(gated(), g_.Spread(kK));
}

TEST_P(GatedDeltaRuleTest, EqualsItsDenseTransition) {
  ExpectTheDenseTransition(Gated(g_).In("beta", beta_).In("initial_state", state_), g_.Spread(kK),
                           beta_);
}

TEST_P(GatedDeltaRuleTest, PreparationInsideEqualsOutside) {
  ExpectPreparationInsideEqualsOutside(gated());
}

TEST_P(GatedDeltaRuleTest, TheGateInsideEqualsTheGateOutside) {
  const Array raw = Normal({kB, kT, kH}), a_log = Uniform({kH}, -1, 1), bias = Normal({kH});
  for (const bool biased : {false, true}) {
    Array g = raw;
    for (size_t i = 0; i < g.values().size(); ++i) {
      const auto h = static_cast<int64_t>(i % kH);
      const double x = raw.values()[i] + (biased ? bias(h) : 0);
      g.values()[i] = -std::exp(a_log(h)) * std::log1p(std::exp(x));
    }
    CallBuilder inside = Gated(raw).Set("gate", "softplus").In("A_log", a_log);
    if (biased) inside.In("dt_bias", bias);
    ExpectSame(inside, Gated(g));
  }
}

TEST_P(GatedDeltaRuleTest, WithoutDecayItIsTheDeltaRule) {
  ExpectSame(Gated(Array({kB, kT, kH})).In("beta", beta_).In("initial_state", state_),
             Call("delta_rule")
                 .In("q", q_)
                 .In("k", k_)
                 .In("v", v_)
                 .In("beta", beta_)
                 .In("initial_state", state_));
}

TEST_P(GatedDeltaRuleTest, ForgettingEverythingLeavesTheTokenAlone) {
  const Array never = Array({kB, kT, kH}, -std::numeric_limits<double>::infinity());
  const Array o = Out(Gated(never).In("beta", beta_).In("initial_state", state_));
  Array expected({kB, kT, kH, kV});
  ForEachHead([&](int64_t b, int64_t h) {
    for (int64_t t = 0; t < kT; ++t) {
      double dot = 0;
      for (int64_t c = 0; c < kK; ++c) dot += q_(b, t, h, c) * k_(b, t, h, c);
      for (int64_t c = 0; c < kV; ++c) {
        expected(b, t, h, c) = dot * beta_(b, t, h) * v_(b, t, h, c) / std::sqrt(double{kK});
      }
    }
  });
  ExpectClose(o, expected);
}

TEST_P(GatedDeltaRuleTest, RefusesGatesThatLackOrMayNotHaveTheirParts) {
  ExpectRefused(Gated(g_).Set("gate", "softplus"), "A_log: missing");
  ExpectRefused(Gated(g_).In("A_log", Array({kH})), "A_log: given, expected only if");
  ExpectRefused(Gated(g_).In("dt_bias", Array({kH})), "dt_bias: given, expected only if");
  ExpectRefused(Gated(g_).In("beta", beta_).Set("allow_neg_eigval", true), "beta_sigmoid");
}

}  // namespace
}  // namespace attnd::testing
