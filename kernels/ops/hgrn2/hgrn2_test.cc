// What HGRN2 promises.
#include <algorithm>
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 97, kH = 3, kK = 16, kV = 12;

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

class Hgrn2Test : public PropertyTest {
 protected:
  const Array q_ = Normal({kB, kT, kH, kK}), f_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV});
  const Array bound_ = Uniform({kH, kK}, 0, 0.9);
  const Array state_ = Normal({kB, kH, kK, kV});

  CallBuilder Hgrn2(const Array& q, const Array& f, const Array& v) {
    return Call("hgrn2").In("q", q).In("f", f).In("v", v);
  }
  CallBuilder Hgrn2() { return Hgrn2(q_, f_, v_); }

  // a = lb + (1 - lb) sigmoid(f)
  Array Gates(const Array& bound) const {
    Array a = f_.Map(Sigmoid);
    for (size_t i = 0; i < a.values().size(); ++i) {
      const double lb = bound.values()[i % static_cast<size_t>(kH * kK)];
      a.values()[i] = lb + (1 - lb) * a.values()[i];
    }
    return a;
  }
};
INSTANTIATE_PROPERTIES(Hgrn2Test);

TEST_P(Hgrn2Test, IsGatedLinearAttentionUnderItsGates) {
  for (const bool bounded : {false, true}) {
    SCOPED_TRACE(bounded ? "bounded" : "without a bound");
    const Array a = Gates(bounded ? bound_ : Array({kH, kK}));
    CallBuilder ours = Hgrn2().In("initial_state", state_);
    if (bounded) ours.In("lower_bound", bound_);
    ExpectSame(ours, Call("gla")
                         .In("q", q_.Map([](double x) { return x * Sigmoid(x); }))
                         .In("k", a.Map([](double x) { return 1 - x; }))
                         .In("v", v_)
                         .In("g", a.Map([](double x) { return std::log(x); }))
                         .In("initial_state", state_));
  }
}

TEST_P(Hgrn2Test, WithoutActivationItTakesQueriesAsTheyAre) {
  ExpectSame(Hgrn2().Set("q_silu", false).In("q", q_.Map([](double x) { return x * Sigmoid(x); })),
             Hgrn2());
}

TEST_P(Hgrn2Test, OneChannelOfOneValueIsAnElementWiseRecurrence) {
  const auto one = [](const Array& x) {
    Array part({kB, kT, kH, 1});
    for (int64_t i = 0; i < kB * kT * kH; ++i) {
      part.values()[static_cast<size_t>(i)] = x.values()[static_cast<size_t>(i * x.dim(3))];
    }
    return part;
  };
  const Array f = one(f_), v = one(v_), bound = Uniform({kH, 1}, 0, 0.9);
  Array expected = v;
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t head = 0; head < kH; ++head) {
      double h = 0;
      for (int64_t t = 0; t < kT; ++t) {
        const double a = bound(head, 0) + (1 - bound(head, 0)) * Sigmoid(f(b, t, head, 0));
        h = a * h + (1 - a) * v(b, t, head, 0);
        expected(b, t, head, 0) = h;
      }
    }
  }
  ExpectClose(Out(Hgrn2(Array({kB, kT, kH, 1}, 1), f, v)
                      .In("lower_bound", bound)
                      .Set("q_silu", false)
                      .Set("scale", 1.0)),
              expected);
}

TEST_P(Hgrn2Test, WhatIsOneStaysOne) {
  const Array ones({kB, kH, kK, kV}, 1);
  ExpectClose(Out(Hgrn2(q_, f_, Array({kB, kT, kH, kV}, 1))
                      .In("initial_state", ones)
                      .In("lower_bound", bound_),
                  "final_state"),
              ones);
}

TEST_P(Hgrn2Test, StatesStayWithinTheValuesThatTheyAreMeansOf) {
  const Array state = Out(Hgrn2().In("initial_state", Array({kB, kH, kK, kV})), "final_state");
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t h = 0; h < kH; ++h) {
      for (int64_t j = 0; j < kV; ++j) {
        double least = 0, most = 0;
        for (int64_t t = 0; t < kT; ++t) {
          least = std::min(least, v_(b, t, h, j));
          most = std::max(most, v_(b, t, h, j));
        }
        for (int64_t i = 0; i < kK; ++i) {
          EXPECT_GE(state(b, h, i, j), least - 1e-5);
          EXPECT_LE(state(b, h, i, j), most + 1e-5);
        }
      }
    }
  }
}

TEST_P(Hgrn2Test, NearlyOpenGatesKeepTheirDigits) {
  // With v = 1 the state is 1 - prod a, here about 1e-4: it is lost if k is 1 - a in float32.
  const Array f = Uniform({kB, kT, kH, kK}, 12, 16);
  Array expected({kB, kH, kK, kV});
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t h = 0; h < kH; ++h) {
      for (int64_t i = 0; i < kK; ++i) {
        double log_product = 0;
        for (int64_t t = 0; t < kT; ++t) log_product -= std::log1p(std::exp(-f(b, t, h, i)));
        for (int64_t j = 0; j < kV; ++j) expected(b, h, i, j) = -std::expm1(log_product);
      }
    }
  }
  ExpectClose(Out(Hgrn2(q_, f, Array({kB, kT, kH, kV}, 1)), "final_state"), expected);
}

TEST_P(Hgrn2Test, ClosedGatesKeepTheLastValueAlone) {
  const Array last = Out(Hgrn2(q_, Array({kB, kT, kH, kK}, -1e4), v_), "final_state");
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t h = 0; h < kH; ++h) {
      for (int64_t j = 0; j < kV; ++j) {
        const double v = v_(b, kT - 1, h, j);
        EXPECT_NEAR(last(b, h, kK - 1, j), v, tolerance() * std::abs(v));
      }
    }
  }
}

TEST_P(Hgrn2Test, RefusesBoundsThatAreNoneAndHeadsThatDiffer) {
  Array bound = bound_;
  bound(1, 2) = 1;
  ExpectRefused(Hgrn2().In("lower_bound", bound), "lower_bound[1,2]=1, expected bounds in [0,1)");
  bound(1, 2) = -0.25;
  ExpectRefused(Hgrn2().In("lower_bound", bound), "lower_bound: given lower_bound[1,2]=-0.25");
  ExpectRefused(Hgrn2().In("lower_bound", Uniform({kH}, 0, 0.5)), "lower_bound: given [3]");
  ExpectRefused(Hgrn2().In("v", Normal({kB, kT, 1, kV})), "v: given [2,97,1,12]");
  ExpectRefused(Hgrn2().In("f", Normal({kB, kT, kH, kK + 1})), "f: given");
  ExpectRefused(Hgrn2().In("initial_state", Normal({kB, kH, kV, kK})), "initial_state: given");
}

}  // namespace
}  // namespace attnd::testing
