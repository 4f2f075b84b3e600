// What the common recurrence promises: every model that it describes, by its own operator.
#include <algorithm>
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 33, kH = 3, kK = 4, kV = 5;

class DsfTest : public PropertyTest {
 protected:
  CallBuilder Dsf(const Array& q, const Array& k, const Array& v) {
    return Call("dsf").In("q", q).In("k", k).In("v", v);
  }
  CallBuilder Dsf() { return Dsf(q_, k_, v_); }
  Array Gates(Dims shape) {
    return Normal(std::move(shape)).Map([](double x) { return -std::log1p(std::exp(-x)); });
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV}), state_ = Normal({kB, kH, kK, kV});
};
INSTANTIATE_PROPERTIES(DsfTest);

TEST_P(DsfTest, WithoutDecayItIsLinearAttention) {
  const auto both = [&](const char* op) {
    return Call(op)
        .In("q", q_)
        .In("k", k_)
        .In("v", v_)
        .In("initial_state", state_)
        .Set("scale", 0.5);
  };
  ExpectSame(both("dsf"), both("linear_attention"));
}

// Linear attention's own normaliser, as eta.
TEST_P(DsfTest, EtaNormalises) {
  const auto elu1 = [](double x) { return x > 0 ? x + 1 : std::exp(x); };
  const Array q = q_.Map(elu1), k = k_.Map(elu1);
  Array eta({kB, kT, kH});
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t h = 0; h < kH; ++h) {
      std::vector<double> z(kK);
      for (int64_t t = 0; t < kT; ++t) {
        for (int64_t i = 0; i < kK; ++i) eta(b, t, h) += q(b, t, h, i) * (z[i] += k(b, t, h, i));
      }
    }
  }
  ExpectClose(Out(Dsf(q, k, v_).In("eta", eta)), Out(Call("linear_attention")
                                                         .In("q", q_)
                                                         .In("k", k_)
                                                         .In("v", v_)
                                                         .Set("feature_map", std::string("elu1"))
                                                         .Set("normalize", true)));
}

// For a q that is the same at every token, eta is a decay: eta_{t-1} / eta_t, with keys k / eta_t.
TEST_P(DsfTest, EtaIsADecayForAFixedProbe) {
  const Array eta = Uniform({kB, kT, 1}, 0.5, 1.0);
  Array sums = eta, g({kB, kT, 1}), q = q_, k = k_;
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t t = 0; t < kT; ++t) {
      if (t > 0) sums(b, t, 0) += sums(b, t - 1, 0);
      g(b, t, 0) = t > 0 ? std::log(sums(b, t - 1, 0) / sums(b, t, 0)) : 0;
      for (int64_t h = 0; h < kH; ++h) {
        for (int64_t i = 0; i < kK; ++i) {
          q(b, t, h, i) = q_(b, 0, h, i);
          k(b, t, h, i) = k_(b, t, h, i) / sums(b, t, 0);
        }
      }
    }
  }
  ExpectClose(Out(Dsf(q, k_, v_).In("eta", sums)), Out(Dsf(q, k, v_).In("g", g)));
}

TEST_P(DsfTest, ADecayOfKeyChannelsIsGatedLinearAttention) {
  const Array g = Gates({kB, kT, kH, kK});
  const auto both = [&](const char* op) {
    return Call(op)
        .In("q", q_)
        .In("k", k_)
        .In("v", v_)
        .In("g", g)
        .In("initial_state", state_)
        .Set("scale", 1.0);
  };
  ExpectSame(both("dsf"), both("gla"));
  // The same for every value channel, entry by entry.
  ExpectClose(Out(Dsf().In("g", g.Spread(kV)).In("initial_state", state_)), Out(both("gla")));
}

TEST_P(DsfTest, OneRateOfAHeadIsSsd) {
  const Array dt = Uniform({kB, kT, kH}, 0.1, 1), d = Normal({kH});
  Array a({kH, kK, kV}), rates({kH}), g({kB, kT, kH}), w = v_;
  for (int64_t h = 0; h < kH; ++h) {
    rates(h) = -0.2 - 0.3 * static_cast<double>(h);
    for (int64_t i = 0; i < kK * kV; ++i) a.values()[h * kK * kV + i] = rates(h);
  }
  const Array ssd =
      Out(Call("ssd").In("x", v_).In("dt", dt).In("a", rates).In("b", k_).In("c", q_).In("d", d));
  ExpectClose(Out(Dsf().In("dt", dt).In("a", a).In("d", d)), ssd);
  // By a gate of the head, with the steps in the values.
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t t = 0; t < kT; ++t) {
      for (int64_t h = 0; h < kH; ++h) {
        g(b, t, h) = dt(b, t, h) * rates(h);
        for (int64_t j = 0; j < kV; ++j) w(b, t, h, j) *= dt(b, t, h);
      }
    }
  }
  ExpectClose(Out(Dsf(q_, k_, w).In("g", g)),
              Out(Call("ssd").In("x", v_).In("dt", dt).In("a", rates).In("b", k_).In("c", q_)));
}

TEST_P(DsfTest, IsTheSelectiveScan) {
  // S6: one head, a step for each channel, a rate for each entry.
  const Array q = q_.Slice(2, 0, 1), k = k_.Slice(2, 0, 1), v = v_.Slice(2, 0, 1);
  const Array dt = Uniform({kB, kT, 1, kV}, 0.1, 1), a = Uniform({1, kK, kV}, -1, -0.1);
  const Array d = Normal({1, kV});
  Array o(v.shape());
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t j = 0; j < kV; ++j) {
      std::vector<double> h(kK);
      for (int64_t t = 0; t < kT; ++t) {
        const double step = dt(b, t, 0, j), u = v(b, t, 0, j);
        for (int64_t i = 0; i < kK; ++i) {
          h[i] = std::exp(step * a(0, i, j)) * h[i] + step * k(b, t, 0, i) * u;
          o(b, t, 0, j) += q(b, t, 0, i) * h[i];
        }
        o(b, t, 0, j) += d(0, j) * u;
      }
    }
  }
  ExpectClose(Out(Dsf(q, k, v).In("dt", dt).In("a", a).In("d", d)), o);
}

TEST_P(DsfTest, OneKeyChannelIsTheQuasiLstm) {
  const Array x = Normal({kB, kT, kV}), f = Normal({kB, kT, kV}), i = Normal({kB, kT, kV});
  const auto sigmoid = [](double u) { return 1 / (1 + std::exp(-u)); };
  const Array ones({kB, kT, 1, 1}, 1);
  const Array g = f.Map([](double u) { return -std::log1p(std::exp(-u)); });
  ExpectClose(Out(Dsf(ones, ones, (x * i.Map(sigmoid)).Reshape({kB, kT, 1, kV}))
                      .In("g", g.Reshape({kB, kT, 1, 1, kV})))
                  .Reshape({kB, kT, kV}),
              Out(Call("qlstm").In("x", x).In("f", f).In("i", i).Set("reversed", false)));
}

TEST_P(DsfTest, TaylorFeaturesApproachSoftmaxAttention) {
  constexpr int64_t kSize = 3;
  // Of standard deviation 0.5, without the rare far ones that a polynomial follows late.
  const auto near = [this] {
    return Normal({1, kT, 1, kSize}).Map([](double x) { return std::clamp(x / 2, -1.0, 1.0); });
  };
  const Array q = near(), k = near();
  const Array v = v_.Slice(0, 0, 1).Slice(2, 0, 1);
  const Array softmax = Out(Call("softmax_attention")
                                .In("q", q)
                                .In("k", k)
                                .In("v", v)
                                .Set("causal", true)
                                .Set("scale", 1.0));
  // 1, x, x⊗x / sqrt(2!), ...
  const auto features = [&](const Array& x, int64_t degree) {
    std::vector<double> all;
    int64_t size = 0;
    for (int64_t t = 0; t < kT; ++t) {
      std::vector<double> power = {1};
      double factorial = 1;
      const size_t begin = all.size();
      for (int64_t m = 0; m <= degree; ++m) {
        if (m > 0) {
          factorial *= static_cast<double>(m);
          std::vector<double> next;
          for (const double p : power) {
            for (int64_t i = 0; i < kSize; ++i) next.push_back(p * x(0, t, 0, i));
          }
          power = std::move(next);
        }
        for (const double p : power) all.push_back(p / std::sqrt(factorial));
      }
      size = static_cast<int64_t>(all.size() - begin);
    }
    return Array({1, kT, 1, size}, std::move(all));
  };
  double last = 1e30;
  for (const int64_t degree : {1, 2, 4, 8}) {
    // Every degree up to 8 needs 9841 features; the value column of ones is the normaliser.
    if (degree == 8 && !exact()) continue;
    const Array phi_q = features(q, degree), phi_k = features(k, degree);
    const auto sums = [&](const Array& values) { return Out(Dsf(phi_q, phi_k, values)); };
    const Array total = sums(Array({1, kT, 1, 1}, 1));
    const Array o = Out(Dsf(phi_q, phi_k, v).In("eta", total.Reshape({1, kT, 1})));
    const double error = RelativeError(o, softmax);
    EXPECT_LT(error, last) << degree;
    last = error;
    if (degree == 8) {
      EXPECT_LT(error, 1e-4);
    }
  }
}

TEST_P(DsfTest, RefusesHalfAStep) {
  const Array dt = Uniform({kB, kT, kH}, 0.1, 1), a = Uniform({kH, kK, kV}, -1, 0);
  ExpectRefused(Dsf().In("dt", dt), "dt and a together");
  ExpectRefused(Dsf().In("a", a), "dt and a together");
  ExpectRefused(Dsf().In("dt", dt).In("a", a).In("g", dt), "g: given, expected only if");
  ExpectRefused(Dsf().In("g", Gates({kB, kT})), "g: given [2,33]");
  ExpectRefused(Dsf().In("eta", Uniform({kB, kT, 2}, 0.1, 1)), "head counts that divide");
}

}  // namespace
}  // namespace attnd::testing
