// What the delta rule promises.
#include "kernels/testing/delta_property_test.h"

namespace attnd::testing {
namespace {

class DeltaRuleTest : public DeltaPropertyTest {
 protected:
  CallBuilder Delta(const Array& q, const Array& k, const Array& v) const {
    return Call("delta_rule").In("q", q).In("k", k).In("v", v);
  }
  MakeCall delta() {
    return [this](const Array& q, const Array& k, const Array& v) { return Delta(q, k, v); };
  }
  const Array no_decay_ = Array({kB, kT, kH, kK});
};
INSTANTIATE_PROPERTIES(DeltaRuleTest);

TEST_P(DeltaRuleTest, TokensReadWhatTheyWrote) { ExpectTokensReadWhatTheyWrote(delta()); }

TEST_P(DeltaRuleTest, NothingIsWrittenWithoutBeta) {
  ExpectNothingIsWrittenWithoutBeta(delta(), no_decay_);
}

TEST_P(DeltaRuleTest, EqualsItsDenseTransition) {
  ExpectTheDenseTransition(Delta(q_, k_, v_).In("beta", beta_).In("initial_state", state_),
                           no_decay_, beta_);
}

TEST_P(DeltaRuleTest, PreparationInsideEqualsOutside) {
  ExpectPreparationInsideEqualsOutside(delta());
}

TEST_P(DeltaRuleTest, OrthonormalKeysMakeItLinearAttention) {
  Array axes({kB, kK, kH, kK});
  ForEachHead([&](int64_t b, int64_t h) {
    for (int64_t t = 0; t < kK; ++t) axes(b, t, h, t) = 1;
  });
  const Array q = q_.Slice(1, 0, kK), v = v_.Slice(1, 0, kK);
  ExpectSame(Delta(q, axes, v), Call("linear_attention").In("q", q).In("k", axes).In("v", v));
}

TEST_P(DeltaRuleTest, WritingTheSameTwiceChangesNothing) {
  const Array state = Out(Delta(q_, k_, v_), "final_state");
  const auto last = [](const Array& x) { return x.Slice(1, kT - 1, 1); };
  ExpectClose(Out(Delta(last(q_), last(k_), last(v_)).In("initial_state", state), "final_state"),
              state);
}

TEST_P(DeltaRuleTest, ABetaOfTwoReflects) {
  const auto one = [](const Array& x) { return x.Slice(1, 0, 1); };
  const CallBuilder reads_its_key =
      Delta(one(k_), one(k_), Array({kB, 1, kH, kV})).Set("scale", 1.0);
  const Array before =
      Out(CallBuilder(reads_its_key).In("beta", Array({kB, 1, kH})).In("initial_state", state_));
  const Array after =
      Out(CallBuilder(reads_its_key).In("beta", Array({kB, 1, kH}, 2)).In("initial_state", state_));
  ExpectClose(after, before * -1);
}

TEST_P(DeltaRuleTest, IsLinearInValues) {
  const Array other = Normal(v_.shape());
  ExpectClose(Out(Delta(q_, k_, v_ * 2 + other)),
              Out(Delta(q_, k_, v_)) * 2 + Out(Delta(q_, k_, other)));
}

TEST_P(DeltaRuleTest, RefusesNegativeEigenvaluesWithoutASigmoid) {
  ExpectRefused(Delta(q_, k_, v_).In("beta", beta_).Set("allow_neg_eigval", true), "beta_sigmoid");
  ExpectRefused(Delta(q_, k_, v_).In("beta", Normal({kB, kT, kH, 1})), "beta: given [2,83,2,1]");
}

}  // namespace
}  // namespace attnd::testing
