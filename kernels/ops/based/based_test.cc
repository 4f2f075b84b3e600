// What Based's Taylor attention promises.
#include <algorithm>
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 97, kH = 3, kK = 6, kV = 10, kF = 1 + kK + kK * kK;

class BasedTest : public PropertyTest {
 protected:
  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV});

  CallBuilder Based(const Array& q, const Array& k, const Array& v) {
    return Call("based").In("q", q).In("k", k).In("v", v);
  }
  CallBuilder Based() { return Based(q_, k_, v_); }

  // sum_s (1 + s + s^2/2) v_s, over the sum of weights if `normalize`.
  Array Quadratic(double scale, bool causal, bool normalize) const {
    Array o(v_.shape());
    for (int64_t b = 0; b < kB; ++b) {
      for (int64_t h = 0; h < kH; ++h) {
        for (int64_t t = 0; t < kT; ++t) {
          double sum = 0;
          for (int64_t s = 0; s < (causal ? t + 1 : kT); ++s) {
            const double x = scale * Dot(&q_.values()[((b * kT + t) * kH + h) * kK],
                                         &k_.values()[((b * kT + s) * kH + h) * kK], kK);
            const double weight = 1 + x + x * x / 2;
            sum += weight;
            for (int64_t c = 0; c < kV; ++c) o(b, t, h, c) += weight * v_(b, s, h, c);
          }
          for (int64_t c = 0; c < kV && normalize; ++c) o(b, t, h, c) /= sum;
        }
      }
    }
    return o;
  }
};
INSTANTIATE_PROPERTIES(BasedTest);

TEST_P(BasedTest, EqualsItsQuadraticForm) {
  for (const bool causal : {true, false}) {
    for (const bool normalize : {true, false}) {
      SCOPED_TRACE(absl::StrCat(causal ? "causal " : "", normalize ? "normalized" : ""));
      const CallBuilder call = Based().Set("causal", causal).Set("normalize", normalize);
      ExpectClose(Out(call), Quadratic(1 / std::sqrt(double{kK}), causal, normalize));
      ExpectClose(Out(CallBuilder(call).Set("scale", 0.9)), Quadratic(0.9, causal, normalize));
    }
  }
}

TEST_P(BasedTest, TheStateHoldsBothHalvesOfTheSecondOrder) {
  constexpr double kScale = 0.7;
  Array state({kB, kH, kF, kV}), z({kB, kH, kF});
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t h = 0; h < kH; ++h) {
      for (int64_t t = 0; t < kT; ++t) {
        for (int64_t f = 0; f < kF; ++f) {
          double phi = 1;
          if (f > 0) phi = std::sqrt(kScale) * k_(b, t, h, (f - 1) % kK);
          if (f > kK) {
            const int64_t pair = f - 1 - kK;
            phi = kScale * k_(b, t, h, pair / kK) * k_(b, t, h, pair % kK) / std::sqrt(2.0);
          }
          z(b, h, f) += phi;
          for (int64_t c = 0; c < kV; ++c) state(b, h, f, c) += phi * v_(b, t, h, c);
        }
      }
    }
  }
  for (const bool normalize : {true, false}) {
    const CallBuilder call = Based().Set("scale", kScale).Set("normalize", normalize);
    ExpectClose(Out(call, "final_state"), state);
    ExpectClose(Out(call, "final_state_z"), z);
  }
}

TEST_P(BasedTest, QueriesOfZeroReadTheRunningMean) {
  Array mean(v_.shape());
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t h = 0; h < kH; ++h) {
      for (int64_t c = 0; c < kV; ++c) {
        double sum = 0;
        for (int64_t t = 0; t < kT; ++t) {
          sum += v_(b, t, h, c);
          mean(b, t, h, c) = sum / static_cast<double>(t + 1);
        }
      }
    }
  }
  ExpectClose(Out(Based(Array(q_.shape()), k_, v_)), mean);
}

TEST_P(BasedTest, SmallQueriesReadAsSoftmaxDoesToTheThirdOrder) {
  const auto difference = [this](double epsilon) {
    const Array q = q_ * epsilon;
    return RelativeError(
        Out(Based(q, k_, v_)),
        Out(Call("softmax_attention").In("q", q).In("k", k_).In("v", v_).Set("causal", true)));
  };
  EXPECT_LE(difference(0.02), tolerance() + 2e-5);
  // Half the argument, an eighth of the difference; float32's own roundings would hide it.
  if (exact()) {
    EXPECT_NEAR(difference(0.02) / difference(0.01), 8, 0.4);
  }
}

TEST_P(BasedTest, WeightsSumToOneAndAreNeverNegative) {
  for (const bool causal : {true, false}) {
    const Array ones(v_.shape(), 1);
    ExpectClose(Out(Based(q_, k_, ones).Set("causal", causal)), ones);
    // Whatever the products are, an output lies among the values.
    for (const double size : {0.3, 1.0, 30.0}) {
      const Array o = Out(Based(q_ * size, k_, v_).Set("causal", causal));
      const auto [least, most] = std::minmax_element(v_.values().begin(), v_.values().end());
      const auto [low, high] = std::minmax_element(o.values().begin(), o.values().end());
      EXPECT_GE(*low, *least - 1e-5);
      EXPECT_LE(*high, *most + 1e-5);
    }
  }
  // Row by row for one key: its weight alone is 1 + s + s^2/2 >= 1/2, smallest at s = -1.
  const auto first = [](const Array& x) { return x.Slice(1, 0, 1); };
  const Array k({kB, 1, kH, kK}, 1);
  const Array at_least = Out(
      Based(k * -1, k, first(Array(v_.shape(), 1))).Set("scale", 1.0 / kK).Set("normalize", false));
  ExpectClose(at_least, Array({kB, 1, kH, kV}, 0.5));
}

TEST_P(BasedTest, TheLastCausalRowIsARowOfTheWhole) {
  const auto last = [](const Array& o) { return o.Slice(1, kT - 1, 1); };
  ExpectClose(last(Out(Based())), last(Out(Based().Set("causal", false))));
}

TEST_P(BasedTest, PackedSequencesWithoutCausalityAreWholes) {
  const auto row = [](const Array& x) { return x.Slice(0, 0, 1); };
  const CallBuilder call = Based(row(q_), row(k_), row(v_)).Set("causal", false);
  const Array packed = Out(CallBuilder(call).Offsets({0, 30, 30, static_cast<int32_t>(kT)}));
  for (const auto& [begin, length] : {std::pair<int64_t, int64_t>{0, 30}, {30, kT - 30}}) {
    const auto part = [b = begin, n = length](const Array& x) { return x.Slice(1, b, n); };
    ExpectClose(part(packed), Out(CallBuilder(call)
                                      .In("q", part(row(q_)))
                                      .In("k", part(row(k_)))
                                      .In("v", part(row(v_)))));
  }
}

TEST_P(BasedTest, EpsJoinsTheDenominator) {
  const auto first = [](const Array& x) { return x.Slice(1, 0, 1); };
  // One key of weight 1: v / (1 + eps).
  ExpectClose(Out(Based(Array({kB, 1, kH, kK}), first(k_), first(v_)).Set("eps", 3.0)),
              first(v_) * 0.25);
}

TEST_P(BasedTest, RefusesScalesAndStatesThatDoNotFit) {
  ExpectRefused(Based().Set("scale", 0.0), "scale: given 0");
  ExpectRefused(Based().Set("scale", -0.5), "scale: given -0.5");
  ExpectRefused(Based().Set("eps", -1.0), "eps");
  ExpectRefused(Based().In("initial_state", Normal({kB, kH, kF - 1, kV})),
                "initial_state: given [2,3,42,10]");
  ExpectRefused(Based().In("initial_state_z", Normal({kB, kH, kK})), "initial_state_z: given");
  ExpectRefused(Based().Set("causal", false).In("initial_state", Normal({kB, kH, kF, kV})),
                "initial_state: given, expected only if causal");
  ExpectRefused(Based().In("k", Normal({kB, kT, 2, kK})), "HO % HK == 0");
}

}  // namespace
}  // namespace attnd::testing
