// What normalised linear attention promises.
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 53, kH = 3, kK = 7, kV = 6;

double Elu1(double x) { return x > 0 ? x + 1 : std::exp(x); }

class NormAttentionTest : public PropertyTest {
 protected:
  CallBuilder Norm(const Array& v) {
    return Call("norm_attention").In("q", q_).In("k", k_).In("v", v);
  }
  CallBuilder Norm() { return Norm(v_); }
  // sum over s <= t, or all s, of phi(q_t)·phi(k_s) v_s.
  Array Quadratic(bool causal) const {
    const Array q = q_.Map(Elu1), k = k_.Map(Elu1);
    Array y({kB, kT, kH, kV});
    for (int64_t b = 0; b < kB; ++b) {
      for (int64_t h = 0; h < kH; ++h) {
        for (int64_t t = 0; t < kT; ++t) {
          for (int64_t s = 0; s < (causal ? t + 1 : kT); ++s) {
            double weight = 0;
            for (int64_t i = 0; i < kK; ++i) weight += q(b, t, h, i) * k(b, s, h, i);
            for (int64_t j = 0; j < kV; ++j) y(b, t, h, j) += weight * v_(b, s, h, j);
          }
        }
      }
    }
    return y;
  }
  // Every row of `size` values over its root mean square.
  static Array Rms(const Array& y, int64_t size) {
    Array o = y;
    for (size_t row = 0; row < o.values().size(); row += size) {
      double squares = 0;
      for (int64_t i = 0; i < size; ++i) squares += y.values()[row + i] * y.values()[row + i];
      for (int64_t i = 0; i < size; ++i) o.values()[row + i] /= std::sqrt(squares / size);
    }
    return o;
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV});
};
INSTANTIATE_PROPERTIES(NormAttentionTest);

TEST_P(NormAttentionTest, IsItsQuadraticForm) {
  for (const bool causal : {true, false}) {
    const CallBuilder call = Norm().Set("causal", causal).Set("eps", 0.0);
    ExpectClose(Out(call), Rms(Quadratic(causal), kH * kV));
    ExpectClose(Out(CallBuilder(call).Set("norm_scope", std::string("head"))),
                Rms(Quadratic(causal), kV));
    ExpectClose(Out(CallBuilder(call).Set("norm", std::string("none"))), Quadratic(causal));
  }
}

TEST_P(NormAttentionTest, TheScaleOfTheValuesDoesNotMatter) {
  for (const char* norm : {"rms", "layer"}) {
    const auto call = [&](double factor) {
      return Norm(v_ * factor).Set("norm", std::string(norm)).Set("eps", 0.0);
    };
    ExpectClose(Out(call(16)), Out(call(1)));
    ExpectClose(Out(call(1).Set("scale", 0.125)), Out(call(1)));
  }
}

TEST_P(NormAttentionTest, WithoutANormItIsLinearAttention) {
  const Array state = Normal({kB, kH, kK, kV});
  const auto both = [&](const char* op) {
    return Call(op)
        .In("q", q_)
        .In("k", k_)
        .In("v", v_)
        .In("initial_state", state)
        .Set("feature_map", std::string("elu1"))
        .Set("scale", 1.0);
  };
  ExpectSame(both("norm_attention").Set("norm", std::string("none")), both("linear_attention"));
}

TEST_P(NormAttentionTest, OutputsAreBounded) {
  const Array weight = Normal({kH * kV});
  double most = 0;
  for (const double w : weight.values()) most = std::max(most, std::abs(w));
  const Array o = Out(Norm(v_ * 1e6).In("norm_weight", weight));
  for (const double x : o.values()) {
    EXPECT_LE(std::abs(x), std::sqrt(static_cast<double>(kH * kV)) * most * (1 + 1e-5));
  }
}

TEST_P(NormAttentionTest, GatesAndLayerNormsAreWhatTheyAreCalled) {
  const Array y = Quadratic(true), gate = Normal({kH * kV}) * 0.01, u = Normal(v_.shape());
  Array gated = Rms(y, kH * kV), layer = y;
  for (size_t row = 0; row < y.values().size(); row += kH * kV) {
    double mean = 0, squares = 0;
    for (int64_t i = 0; i < kH * kV; ++i) mean += y.values()[row + i] / (kH * kV);
    for (int64_t i = 0; i < kH * kV; ++i) squares += std::pow(y.values()[row + i] - mean, 2);
    for (int64_t i = 0; i < kH * kV; ++i) {
      const double x = y.values()[row + i];
      gated.values()[row + i] /= 1 + std::exp(-gate(i) * x);
      layer.values()[row + i] = (x - mean) / std::sqrt(squares / (kH * kV) + 1e-5);
    }
  }
  ExpectClose(Out(Norm()
                      .Set("norm", std::string("gated_rms"))
                      .Set("eps", 0.0)
                      .In("norm_gate", gate)
                      .In("u", u)),
              gated * u);
  ExpectClose(Out(Norm().Set("norm", std::string("layer"))), layer);
}

TEST_P(NormAttentionTest, ZeroRowsGiveZerosAndTheBias) {
  const Array zeros(v_.shape()), bias = Normal({kH * kV});
  for (const char* norm : {"rms", "layer"}) {
    const CallBuilder call = Norm(zeros).Set("norm", std::string(norm));
    EXPECT_EQ(Out(call).values(), zeros.values());
    ExpectClose(Out(CallBuilder(call).In("norm_bias", bias)).Slice(1, kT - 1, 1).Slice(0, 0, 1),
                bias.Reshape({1, 1, kH, kV}));
  }
}

TEST_P(NormAttentionTest, RefusesWhatDoesNotBelongTogether) {
  const Array gate = Normal({kH * kV});
  ExpectRefused(Norm().In("norm_gate", gate), "norm_gate: given, expected only if");
  ExpectRefused(Norm().Set("norm", std::string("gated_rms")), "norm_gate: missing");
  ExpectRefused(Norm().In("norm_weight", Normal({kV})), "norm_weight: given [6]");
  ExpectRefused(Norm().In("norm_weight", gate).Set("norm_scope", std::string("head")),
                "norm_weight: given [18]");
  ExpectRefused(Norm().In("initial_state", Normal({kB, kH, kK, kV})).Set("causal", false),
                "initial_state: given, expected only if causal");
  ExpectRefused(Norm().Set("eps", -1.0), "eps: given -1");
}

}  // namespace
}  // namespace attnd::testing
