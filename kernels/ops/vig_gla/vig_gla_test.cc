// What gated linear attention in both directions promises.
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 37, kH = 2, kK = 6, kV = 5;

class VigGlaTest : public PropertyTest {
 protected:
  CallBuilder Both(const Array& forward, const Array& backward) {
    return Call("vig_gla")
        .In("q", q_)
        .In("k", k_)
        .In("v", v_)
        .In("g_forward", forward)
        .In("g_backward", backward);
  }
  Array Gates() {
    return Normal(q_.shape()).Map([](double x) { return -std::log1p(std::exp(-x)); });
  }
  // o_t = sum_s weight(b, h, t, s) v_s.
  template <typename Weight>
  Array Weighed(Weight weight) const {
    Array o(v_.shape());
    for (int64_t b = 0; b < kB; ++b) {
      for (int64_t h = 0; h < kH; ++h) {
        for (int64_t t = 0; t < kT; ++t) {
          for (int64_t s = 0; s < kT; ++s) {
            const double w = weight(b, h, t, s);
            for (int64_t j = 0; j < kV; ++j) o(b, t, h, j) += w * v_(b, s, h, j);
          }
        }
      }
    }
    return o;
  }
  double Score(int64_t b, int64_t h, int64_t t, int64_t s) const {
    double sum = 0;
    for (int64_t i = 0; i < kK; ++i) sum += q_(b, t, h, i) * k_(b, s, h, i);
    return sum / std::sqrt(static_cast<double>(kK));
  }
  static Array Reversed(const Array& x) {
    std::vector<int64_t> order(kT);
    for (int64_t t = 0; t < kT; ++t) order[t] = kT - 1 - t;
    return x.Take(1, order);
  }
  static Array Rms(const Array& x, const Array& weight) {
    Array o = x;
    for (size_t row = 0; row < x.values().size(); row += kV) {
      const double squares = Dot(x.values().data() + row, x.values().data() + row, kV);
      for (int64_t j = 0; j < kV; ++j) {
        o.values()[row + j] *= weight(j) / std::sqrt(squares / kV + 1e-6);
      }
    }
    return o;
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV});
};
INSTANTIATE_PROPERTIES(VigGlaTest);

TEST_P(VigGlaTest, WithoutDecayTheOwnTokenCountsTwice) {
  const Array open(q_.shape());
  ExpectClose(Out(Both(open, open)), Weighed([this](int64_t b, int64_t h, int64_t t, int64_t s) {
                return Score(b, h, t, s) / 2 * (s == t ? 2 : 1);
              }));
}

TEST_P(VigGlaTest, ClosedGatesLeaveTheOwnToken) {
  const Array closed(q_.shape(), -1e4);
  ExpectClose(Out(Both(closed, closed)),
              Weighed([this](int64_t b, int64_t h, int64_t t, int64_t s) {
                return s == t ? Score(b, h, t, s) : 0;
              }));
}

TEST_P(VigGlaTest, IsItsQuadraticForm) {
  const Array forward = Gates(), backward = Gates();
  ExpectClose(Out(Both(forward, backward)),
              Weighed([&](int64_t b, int64_t h, int64_t t, int64_t s) {
                double sum = 0;
                for (int64_t i = 0; i < kK; ++i) {
                  double decay = 0;
                  for (int64_t r = s + 1; r <= t; ++r) decay += forward(b, r, h, i);
                  for (int64_t r = t; r < s; ++r) decay += backward(b, r, h, i);
                  sum += q_(b, t, h, i) * k_(b, s, h, i) * std::exp(decay);
                }
                return sum / std::sqrt(static_cast<double>(kK)) * (s == t ? 1 : 0.5);
              }));
}

TEST_P(VigGlaTest, ReversalExchangesTheGates) {
  const Array forward = Gates(), backward = Gates();
  ExpectClose(Out(Call("vig_gla")
                      .In("q", Reversed(q_))
                      .In("k", Reversed(k_))
                      .In("v", Reversed(v_))
                      .In("g_forward", Reversed(backward))
                      .In("g_backward", Reversed(forward))),
              Reversed(Out(Both(forward, backward))));
}

TEST_P(VigGlaTest, TheGateChoosesBetweenTheBranches) {
  const Array forward = Gates(), backward = Gates(), local = Normal(v_.shape());
  const Array weight = Normal({kV}), local_weight = Normal({kV});
  const auto mixed = [&](double gate) {
    return Out(Both(forward, backward)
                   .In("norm_weight", weight)
                   .In("local", local)
                   .In("local_norm_weight", local_weight)
                   .In("gate", Array(v_.shape(), gate)));
  };
  const Array attention = Rms(Out(Both(forward, backward)), weight);
  ExpectClose(Out(Both(forward, backward).In("norm_weight", weight)), attention);
  ExpectClose(mixed(-1e4), Rms(local, local_weight));
  ExpectClose(mixed(1e4), attention);
  ExpectClose(mixed(0), attention * 0.5 + Rms(local, local_weight) * 0.5);
}

TEST_P(VigGlaTest, RefusesHalfAMix) {
  const Array g = Gates(), local = Normal(v_.shape()), weight = Normal({kV});
  ExpectRefused(Both(g, Normal({kB, kT, kH})), "g_backward: given");
  ExpectRefused(Both(g, g).In("local", local), "local_norm_weight: missing");
  ExpectRefused(Both(g, g).In("local", local).In("local_norm_weight", weight), "gate: missing");
  ExpectRefused(Both(g, g).In("local", local).In("local_norm_weight", weight).In("gate", local),
                "norm_weight with local");
  ExpectRefused(Both(g, g).In("gate", local), "gate: given, expected only if has(local)");
  ExpectRefused(Both(g, g).In("norm_weight", Normal({kV + 1})), "norm_weight: given [6]");
}

}  // namespace
}  // namespace attnd::testing
