// What the two mixer layers promise.
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 29, kD = 7, kH = 4, kHK = 2, kK = 6, kV = 5;

class InfiniteVlTest : public PropertyTest {
 protected:
  CallBuilder Delta(const Array& x) {
    return Call("infinite_vl")
        .In("x", x)
        .In("w_q", w_q_)
        .In("w_k", w_k_)
        .In("w_v", w_v_)
        .In("w_g", w_g_)
        .In("w_a", w_a_)
        .In("w_b", w_b_)
        .In("w_o", w_o_)
        .In("conv_q", conv_q_)
        .In("conv_k", conv_k_)
        .In("conv_v", conv_v_)
        .In("A_log", a_log_)
        .In("dt_bias", dt_bias_)
        .In("o_norm", o_norm_)
        .Set("num_heads", kH);
  }
  CallBuilder Window(const Array& x, int64_t begin, int64_t window) {
    return Call("infinite_vl")
        .In("x", x)
        .In("w_q", w_q_)
        .In("b_q", b_q_)
        .In("w_k", w_k_.Slice(0, 0, kHK * kK))
        .In("b_k", b_q_.Slice(0, 0, kHK * kK))
        .In("w_v", w_v_.Slice(0, 0, kHK * kK))
        .In("b_v", b_q_.Slice(0, 3, kHK * kK))
        .In("w_o", w_q_.Reshape({kD, kH * kK}))
        .In("cos", cos_.Slice(1, begin, x.dim(1)))
        .In("sin", sin_.Slice(1, begin, x.dim(1)))
        .Set("layer", std::string("swa"))
        .Set("num_heads", kH)
        .Set("num_kv_heads", kHK)
        .Set("window", window);
  }
  // x w^T (+ b), [B,T,rows].
  static Array Project(const Array& x, const Array& w, const Array& b = Array()) {
    Array y({x.dim(0), x.dim(1), w.dim(0)});
    const int64_t size = w.dim(1);
    for (int64_t row = 0; row < x.dim(0) * x.dim(1); ++row) {
      for (int64_t i = 0; i < w.dim(0); ++i) {
        y.values()[row * w.dim(0) + i] =
            Dot(&x.values()[row * size], &w.values()[i * size], size) + (b.rank() == 1 ? b(i) : 0);
      }
    }
    return y;
  }
  static CallBuilder From(CallBuilder call, const Evaluation& before) {
    for (const auto& [name, tensor] : before.outputs) {
      const std::string output = name;
      if (output.substr(0, 6) == "final_") call.Put("initial_" + output.substr(6), tensor);
    }
    return call;
  }

  const Array x_ = Normal({kB, kT, kD}), w_q_ = Normal({kH * kK, kD}) * 0.4,
              w_k_ = Normal({kH * kK, kD}) * 0.4, w_v_ = Normal({kH * kV, kD}) * 0.4,
              w_g_ = Normal({kH * kV, kD}), w_a_ = Normal({kH, kD}), w_b_ = Normal({kH, kD}),
              w_o_ = Normal({kD, kH*kV}), conv_q_ = Normal({kH * kK, 4}),
              conv_k_ = Normal({kH * kK, 4}), conv_v_ = Normal({kH * kV, 4}),
              a_log_ = Normal({kH}) * 0.3, dt_bias_ = Normal({kH}), o_norm_ = Normal({kV}),
              b_q_ = Normal({kH * kK}), cos_ = Normal({kB, kT, kK}), sin_ = Normal({kB, kT, kK});
};
INSTANTIATE_PROPERTIES(InfiniteVlTest);

TEST_P(InfiniteVlTest, GdnIsTheGatedDeltaRuleOfTheProjections) {
  const auto conv = [&](const Array& w, const Array& taps, int64_t size) {
    return Out(Call("short_conv").In("x", Project(x_, w)).In("weight", taps))
        .Reshape({kB, kT, kH, size});
  };
  const Array o = Out(Call("gated_delta_rule")
                          .In("q", conv(w_q_, conv_q_, kK))
                          .In("k", conv(w_k_, conv_k_, kK))
                          .In("v", conv(w_v_, conv_v_, kV))
                          .In("g", Project(x_, w_a_))
                          .In("beta", Project(x_, w_b_))
                          .In("A_log", a_log_)
                          .In("dt_bias", dt_bias_)
                          .Set("gate", std::string("softplus"))
                          .Set("beta_sigmoid", true)
                          .Set("qk_l2norm", true));
  Array gated = Project(x_, w_g_).Map([](double g) { return g / (1 + std::exp(-g)); });
  for (int64_t row = 0; row < kB * kT * kH; ++row) {
    const double* at = &o.values()[row * kV];
    const double root = std::sqrt(Dot(at, at, kV) / kV + 1e-5);
    for (int64_t j = 0; j < kV; ++j) gated.values()[row * kV + j] *= at[j] / root * o_norm_(j);
  }
  ExpectClose(Out(Delta(x_), "y"), Project(gated, w_o_));
}

TEST_P(InfiniteVlTest, AWindowOverAllIsCausalAttention) {
  const auto turned = [&](Array x) {
    const Array was = x;
    for (int64_t b = 0; b < kB; ++b) {
      for (int64_t t = 0; t < kT; ++t) {
        for (int64_t h = 0; h < x.dim(2); ++h) {
          for (int64_t i = 0; i < kK; ++i) {
            const double other = i < kK / 2 ? -was(b, t, h, i + kK / 2) : was(b, t, h, i - kK / 2);
            x(b, t, h, i) = was(b, t, h, i) * cos_(b, t, i) + other * sin_(b, t, i);
          }
        }
      }
    }
    return x;
  };
  const auto heads = [&](const Array& w, const Array& b, int64_t count) {
    return Project(x_, w, b).Reshape({kB, kT, count, kK});
  };
  const int64_t rows = kHK * kK;
  const CallBuilder softmax =
      Call("softmax_attention")
          .In("q", turned(heads(w_q_, b_q_, kH)))
          .In("k", turned(heads(w_k_.Slice(0, 0, rows), b_q_.Slice(0, 0, rows), kHK)))
          .In("v", heads(w_v_.Slice(0, 0, rows), b_q_.Slice(0, 3, rows), kHK))
          .Set("causal", true);
  const Array w_o = w_q_.Reshape({kD, kH * kK});
  ExpectClose(Out(Window(x_, 0, kT), "y"), Project(Out(softmax).Reshape({kB, kT, kH * kK}), w_o));
  ExpectClose(
      Out(Window(x_, 0, 5), "y"),
      Project(Out(CallBuilder(softmax).Set("window_left", int64_t{4})).Reshape({kB, kT, kH * kK}),
              w_o));
}

TEST_P(InfiniteVlTest, SplitsAndForksContinue) {
  for (const int64_t at : {int64_t{1}, int64_t{2}, int64_t{13}, kT - 1}) {
    const auto cut = [&](int64_t begin, int64_t count) { return x_.Slice(1, begin, count); };
    const Evaluation first = Run(Delta(cut(0, at)));
    const CallBuilder rest = From(Delta(cut(at, kT - at)), first);
    ExpectClose(Out(rest, "y"), Out(Delta(x_), "y").Slice(1, at, kT - at));
    // A state is copied by giving it twice.
    EXPECT_EQ(Out(rest, "y").values(), Out(From(Delta(cut(at, kT - at)), first), "y").values());
    const Evaluation ring = Run(Window(cut(0, at), 0, 4));
    ExpectClose(Out(From(Window(cut(at, kT - at), at, 4), ring), "y"),
                Out(Window(x_, 0, 4), "y").Slice(1, at, kT - at));
  }
}

TEST_P(InfiniteVlTest, LaterTokensDoNotMatter) {
  Array changed = x_;
  for (int64_t i = 0; i < kD; ++i) changed(0, 20, i) += 1;
  EXPECT_EQ(Out(Delta(changed), "y").Slice(1, 0, 20).values(),
            Out(Delta(x_), "y").Slice(1, 0, 20).values());
  EXPECT_EQ(Out(Window(changed, 0, 9), "y").Slice(1, 0, 20).values(),
            Out(Window(x_, 0, 9), "y").Slice(1, 0, 20).values());
}

TEST_P(InfiniteVlTest, AClosedOutputGateGivesZeros) {
  const Array y = Out(Delta(x_).In("w_g", Array({kH * kV, kD})), "y");
  EXPECT_EQ(y.values(), Array(y.shape()).values());
}

TEST_P(InfiniteVlTest, RefusesInputsOfTheOtherLayer) {
  ExpectRefused(Delta(x_).In("b_q", b_q_), "b_q: given, expected only if layer == 'swa'");
  ExpectRefused(Window(x_, 0, 4).In("w_g", w_g_), "w_g: given, expected only if layer == 'gdn'");
  ExpectRefused(Window(x_, 0, 4).In("w_k", w_k_).In("b_k", b_q_), "w_k with K rows for every head");
  ExpectRefused(Delta(x_).Set("num_heads", int64_t{5}), "infinite_vl");
  ExpectRefused(Delta(x_).In("initial_state", Normal({kB, kH, kK, kV})),
                "all of the state, or none of it");
  ExpectRefused(Window(x_, 0, 0), "window: given 0");
}

}  // namespace
}  // namespace attnd::testing
