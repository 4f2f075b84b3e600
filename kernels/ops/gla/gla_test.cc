// What gated linear attention promises.
#include <cmath>
#include <limits>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 97, kH = 3, kK = 16, kV = 12;

class GlaTest : public PropertyTest {
 protected:
  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV});
  const Array decays_ = Uniform({kB, kT, kH, kK}, -0.3, 0);
  const Array state_ = Normal({kB, kH, kK, kV});

  CallBuilder Gla(const Array& g) {
    return Call("gla").In("q", q_).In("k", k_).In("v", v_).In("g", g);
  }
};
INSTANTIATE_PROPERTIES(GlaTest);

TEST_P(GlaTest, WithoutDecayItIsCausalLinearAttention) {
  ExpectSame(
      Gla(Array({kB, kT, kH, kK})).In("initial_state", state_),
      Call("linear_attention").In("q", q_).In("k", k_).In("v", v_).In("initial_state", state_));
}

TEST_P(GlaTest, WithOneDecayPerHeadItIsRetention) {
  const Array g = Uniform({kH}, -0.2, 0);
  Array everywhere({kB, kT, kH});
  for (int64_t i = 0; i < kB * kT * kH; ++i) everywhere.values()[i] = g(i % kH);
  ExpectSame(Gla(everywhere), Call("retention").In("q", q_).In("k", k_).In("v", v_).In("g", g));
}

TEST_P(GlaTest, OneDecayPerHeadIsTheSameDecayInEveryChannel) {
  const Array g = Uniform({kB, kT, kH}, -1, 0);
  ExpectSame(Gla(g).In("initial_state", state_), Gla(g.Spread(kK)).In("initial_state", state_));
}

TEST_P(GlaTest, ADecayOfMinusInfinityStartsAnew) {
  constexpr int64_t kRestart = 70;
  Array g = decays_;
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t h = 0; h < kH; ++h) {
      for (int64_t c = 0; c < kK; ++c)
        g(b, kRestart, h, c) = -std::numeric_limits<double>::infinity();
    }
  }
  const Array whole = Out(Gla(g).In("initial_state", state_));
  const auto rest = [](const Array& x) { return x.Slice(1, kRestart, kT - kRestart); };
  const Array anew =
      Out(Call("gla").In("q", rest(q_)).In("k", rest(k_)).In("v", rest(v_)).In("g", rest(decays_)));
  ExpectClose(rest(whole), anew);
}

TEST_P(GlaTest, IsLinearInValuesAndInQueries) {
  const Array v2 = Normal({kB, kT, kH, kV}), q2 = Normal({kB, kT, kH, kK});
  const Array o = Out(Gla(decays_));
  ExpectClose(Out(Gla(decays_).In("v", v_ * 3 + v2)), o * 3 + Out(Gla(decays_).In("v", v2)));
  ExpectClose(Out(Gla(decays_).In("q", q_ * 3 + q2)), o * 3 + Out(Gla(decays_).In("q", q2)));
}

TEST_P(GlaTest, TheStateIsBoundedByWhatWasWritten) {
  const Array state = Out(Gla(decays_), "final_state");
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t h = 0; h < kH; ++h) {
      double norm = 0, bound = 0;
      for (int64_t i = 0; i < kK * kV; ++i) norm += std::pow(state(b, h, i / kV, i % kV), 2);
      for (int64_t t = 0; t < kT; ++t) {
        double k = 0, v = 0;
        for (int64_t c = 0; c < kK; ++c) k += std::pow(k_(b, t, h, c), 2);
        for (int64_t c = 0; c < kV; ++c) v += std::pow(v_(b, t, h, c), 2);
        bound += std::sqrt(k * v);
      }
      EXPECT_LE(std::sqrt(norm), bound);
    }
  }
}

TEST_P(GlaTest, FollowsItsRecurrenceWithDecaysOfKeysAndValues) {
  const Array g_v = Uniform({kB, kT, kH, kV}, -0.3, 0);
  Array expected({kB, kT, kH, kV}), s = state_;
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t t = 0; t < kT; ++t) {
      for (int64_t h = 0; h < kH; ++h) {
        for (int64_t i = 0; i < kK; ++i) {
          for (int64_t j = 0; j < kV; ++j) {
            double& entry = s(b, h, i, j);
            entry = entry * std::exp(decays_(b, t, h, i) + g_v(b, t, h, j)) +
                    k_(b, t, h, i) * v_(b, t, h, j);
            expected(b, t, h, j) += q_(b, t, h, i) * entry / std::sqrt(double{kK});
          }
        }
      }
    }
  }
  const Evaluation ran = Run(Gla(decays_).In("g_v", g_v).In("initial_state", state_));
  ExpectClose(Array(Output(ran, "o")), expected);
  ExpectClose(Array(Output(ran, "final_state")), s);
}

TEST_P(GlaTest, StrongDecaysStayExact) {
  // A chunk's products would overflow if a decay were ever undone.
  const Array g = Uniform({kB, kT, kH, kK}, -60, 0);
  const Array o = Out(Gla(g));
  Array expected({kB, kT, kH, kV});
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t h = 0; h < kH; ++h) {
      Array s({kK, kV});
      for (int64_t t = 0; t < kT; ++t) {
        for (int64_t i = 0; i < kK; ++i) {
          for (int64_t j = 0; j < kV; ++j) {
            s(i, j) = s(i, j) * std::exp(g(b, t, h, i)) + k_(b, t, h, i) * v_(b, t, h, j);
            expected(b, t, h, j) += q_(b, t, h, i) * s(i, j) / std::sqrt(double{kK});
          }
        }
      }
    }
  }
  ExpectClose(o, expected);
}

TEST_P(GlaTest, ALaterDecayChangesNoEarlierBitHoweverStrong) {
  constexpr int64_t kAt = 70;
  Array strong = decays_;
  for (int64_t i = 0; i < kB * kH * kK; ++i) strong(i / (kH * kK), kAt, i / kK % kH, i % kK) = -50;
  const auto before = [&](const Array& g) { return Output(Run(Gla(g)), "o").Slice(1, 0, kAt); };
  EXPECT_TRUE(BitEqual(before(strong), before(decays_)));
}

TEST_P(GlaTest, HeadsOfAGroupShareWhatIsRepeated) {
  const Array k = Normal({kB, kT, 1, kK}), g = Uniform({kB, kT, 1, kK}, -1, 0);
  ExpectSame(Call("gla").In("q", q_).In("k", k).In("v", v_).In("g", g),
             Call("gla").In("q", q_).In("k", k.Repeat(2, kH)).In("v", v_).In("g", g.Repeat(2, kH)));
}

TEST_P(GlaTest, RefusesWhatDoesNotFit) {
  ExpectRefused(Gla(Normal({kB, kT})), "gla: g: given [2,97]");
  ExpectRefused(Gla(Normal({kB, kT, kH, kK + 1})), "gla: g: given");
  ExpectRefused(Gla(decays_).In("g_v", Normal({kB, kT, kH, kV + 1})), "gla: g_v: given");
  ExpectRefused(Gla(decays_).In("initial_state", Normal({kB + 1, kH, kK, kV})),
                "initial_state: given");
  ExpectRefused(Gla(decays_).Offsets({0, kT}), "cu_seqlens: given with B=2");
  ExpectRefused(Gla(decays_).In("v", Normal({kB, kT, 2, kV})), "HO % HV == 0");
}

}  // namespace
}  // namespace attnd::testing
