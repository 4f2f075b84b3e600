// What Mamba-2's state-space layer promises.
#include <algorithm>
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 131, kG = 2, kH = 4, kN = 16, kP = 10;  // Ragged in any chunk.

double Softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }

class SsdTest : public PropertyTest {
 protected:
  const Array x_ = Normal({kB, kT, kH, kP}), dt_ = Uniform({kB, kT, kH}, 0, 1),
              a_ = Uniform({kH}, -1, -0.01), b_ = Normal({kB, kT, kG, kN}),
              c_ = Normal({kB, kT, kG, kN});
  const Array state_ = Normal({kB, kH, kN, kP});

  CallBuilder Ssd(const Array& dt) {
    return Call("ssd").In("x", x_).In("dt", dt).In("a", a_).In("b", b_).In("c", c_);
  }
  CallBuilder Ssd() { return Ssd(dt_); }

  // (L * C B^T) (dt' X): the quadratic form, from nothing.
  Array Dual(const Array& dt) const {
    Array o(x_.shape());
    for (int64_t b = 0; b < kB; ++b) {
      for (int64_t h = 0; h < kH; ++h) {
        const int64_t group = h / (kH / kG);
        for (int64_t t = 0; t < kT; ++t) {
          double decay = 0;
          for (int64_t s = t; s >= 0; --s) {
            const double weight = std::exp(decay) * dt(b, s, h) *
                                  Dot(&c_.values()[((b * kT + t) * kG + group) * kN],
                                      &b_.values()[((b * kT + s) * kG + group) * kN], kN);
            for (int64_t p = 0; p < kP; ++p) o(b, t, h, p) += weight * x_(b, s, h, p);
            decay += dt(b, s, h) * a_(h);
          }
        }
      }
    }
    return o;
  }

  // y + what `add` makes of the place.
  template <typename Function>
  static Array EachOf(const Array& y, Function add) {
    Array out = y;
    for (int64_t b = 0; b < kB; ++b) {
      for (int64_t t = 0; t < kT; ++t) {
        for (int64_t h = 0; h < kH; ++h) {
          for (int64_t p = 0; p < kP; ++p) out(b, t, h, p) = add(y(b, t, h, p), b, t, h, p);
        }
      }
    }
    return out;
  }
};
INSTANTIATE_PROPERTIES(SsdTest);

TEST_P(SsdTest, TheRecurrenceEqualsItsDual) { ExpectClose(Out(Ssd()), Dual(dt_)); }

TEST_P(SsdTest, IsGatedLinearAttentionWithOneDecayPerHead) {
  Array g = dt_;
  for (size_t i = 0; i < g.values().size(); ++i) {
    g.values()[i] *= a_.values()[i % static_cast<size_t>(kH)];
  }
  const Array v = x_ * dt_.Spread(kP);
  ExpectSame(Ssd().In("initial_state", state_), Call("gla")
                                                    .In("q", c_)
                                                    .In("k", b_)
                                                    .In("v", v)
                                                    .In("g", g)
                                                    .In("initial_state", state_)
                                                    .Set("scale", 1.0));
}

TEST_P(SsdTest, AStepOfZeroSkipsItsToken) {
  constexpr int64_t kSkipped = 70;
  Array dt = dt_;
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t h = 0; h < kH; ++h) dt(b, kSkipped, h) = 0;
  }
  const Evaluation with = Run(Ssd(dt).In("initial_state", state_));
  const auto without = [](const Array& x) {
    const Array parts[] = {x.Slice(1, 0, kSkipped), x.Slice(1, kSkipped + 1, kT - kSkipped - 1)};
    return Concatenate(parts, 1);
  };
  const Evaluation rest = Run(Call("ssd")
                                  .In("x", without(x_))
                                  .In("dt", without(dt))
                                  .In("a", a_)
                                  .In("b", without(b_))
                                  .In("c", without(c_))
                                  .In("initial_state", state_));
  ExpectClose(Array(Output(with, "final_state")), Array(Output(rest, "final_state")));
  ExpectClose(without(Array(Output(with, "o"))), Array(Output(rest, "o")));
  // The token itself reads the state as it was before.
  const auto upto = [](const Array& x) { return x.Slice(1, 0, kSkipped); };
  const Array before = Out(Call("ssd")
                               .In("x", upto(x_))
                               .In("dt", upto(dt))
                               .In("a", a_)
                               .In("b", upto(b_))
                               .In("c", upto(c_))
                               .In("initial_state", state_),
                           "final_state");
  Array expected({kB, 1, kH, kP});
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t h = 0; h < kH; ++h) {
      for (int64_t n = 0; n < kN; ++n) {
        const double c = c_(b, kSkipped, h / (kH / kG), n);
        for (int64_t p = 0; p < kP; ++p) expected(b, 0, h, p) += c * before(b, h, n, p);
      }
    }
  }
  ExpectClose(Array(Output(with, "o")).Slice(1, kSkipped, 1), expected);
}

TEST_P(SsdTest, StepsInsideEqualStepsOutside) {
  const Array raw = Normal({kB, kT, kH}), bias = Normal({kH});
  const auto outside = [&](bool softplus, double least, double most) {
    Array dt = raw;
    for (size_t i = 0; i < dt.values().size(); ++i) {
      double& step = dt.values()[i];
      step += bias.values()[i % static_cast<size_t>(kH)];
      step = std::clamp(softplus ? Softplus(step) : step, least, most);
    }
    return dt;
  };
  for (const bool softplus : {true, false}) {
    const CallBuilder inside = Ssd(raw).In("dt_bias", bias).Set("dt_softplus", softplus);
    ExpectSame(inside, Ssd(outside(softplus, 0, 1e9)));
    ExpectSame(CallBuilder(inside).Set("dt_min", 0.3).Set("dt_max", 0.8),
               Ssd(outside(softplus, 0.3, 0.8)));
    ExpectSame(CallBuilder(inside).Set("dt_max", HUGE_VAL), inside);
  }
}

TEST_P(SsdTest, TheRateMayComeAsItsLogarithm) {
  ExpectSame(Call("ssd")
                 .In("x", x_)
                 .In("dt", dt_)
                 .In("a_log", a_.Map([](double a) { return std::log(-a); }))
                 .In("b", b_)
                 .In("c", c_),
             Ssd());
}

TEST_P(SsdTest, SkipAndGateAreAddedToTheReadOut) {
  const Array z = Normal(x_.shape()), d = Normal({kH}), wide_d = Normal({kH, kP});
  const Array o = Out(Ssd().In("initial_state", state_));
  const auto gated = [&z](double y, int64_t b, int64_t t, int64_t h, int64_t p) {
    return y * z(b, t, h, p) / (1 + std::exp(-z(b, t, h, p)));
  };
  const Array skipped = EachOf(o, [&](double y, int64_t b, int64_t t, int64_t h, int64_t p) {
    return y + d(h) * x_(b, t, h, p);
  });
  const Array skipped_wide = EachOf(o, [&](double y, int64_t b, int64_t t, int64_t h, int64_t p) {
    return y + wide_d(h, p) * x_(b, t, h, p);
  });
  const CallBuilder call = Ssd().In("initial_state", state_);
  ExpectClose(Out(CallBuilder(call).In("d", d)), skipped);
  ExpectClose(Out(CallBuilder(call).In("d", wide_d)), skipped_wide);
  ExpectClose(Out(CallBuilder(call).In("z", z)), EachOf(o, gated));
  ExpectClose(Out(CallBuilder(call).In("z", z).In("d", d)), EachOf(skipped, gated));
}

TEST_P(SsdTest, StrongDecaysStayExact) {
  const Array dt = Uniform({kB, kT, kH}, 0, 60);
  ExpectClose(Out(Ssd(dt)), Dual(dt));
}

TEST_P(SsdTest, RefusesRatesThatGrowAndLimitsThatCross) {
  const CallBuilder none = Call("ssd").In("x", x_).In("dt", dt_).In("b", b_).In("c", c_);
  ExpectRefused(none, "a_log: missing");
  ExpectRefused(Ssd().In("a_log", Normal({kH})), "a_log: given, expected only if !has(a)");
  Array a = a_;
  a(2) = 0.5;
  ExpectRefused(CallBuilder(none).In("a", a), "a: given a[2]=0.5, expected rates <= 0");
  ExpectRefused(Ssd().Set("dt_min", 0.5).Set("dt_max", 0.4), "dt_min <= dt_max");
  ExpectRefused(Ssd().Set("dt_max", std::nan("")), "dt_max: given");
  ExpectRefused(Ssd().Set("dt_min", HUGE_VAL), "dt_min: given");
  ExpectRefused(Ssd().In("b", Normal({kB, kT, 3, kN})).In("c", Normal({kB, kT, 3, kN})),
                "groups that divide the heads");
  ExpectRefused(Ssd().In("d", Normal({kP})), "d: given [10]");
  ExpectRefused(Ssd().In("initial_state", Normal({kB, kH, kP, kN})), "initial_state: given");
}

}  // namespace
}  // namespace attnd::testing
