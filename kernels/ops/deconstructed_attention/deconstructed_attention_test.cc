// What each relaxed principle leaves.
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 3, kT = 31, kH = 2, kK = 4, kV = 5;

class DeconstructedAttentionTest : public PropertyTest {
 protected:
  CallBuilder Variant(const char* variant) {
    return Call("deconstructed_attention").Set("variant", std::string(variant));
  }
  CallBuilder Full(const char* variant, int64_t begin = 0, int64_t count = kT) {
    return Variant(variant)
        .In("q", q_.Slice(1, begin, count))
        .In("k", k_.Slice(1, begin, count))
        .In("v", v_.Slice(1, begin, count));
  }
  CallBuilder Mlp(const Array& x) {
    return Variant("mlp").In("x", x).In("w_gate", gate_).In("w_up", up_).In("w_down", down_);
  }
  static CallBuilder From(CallBuilder call, const Evaluation& before) {
    for (const auto& [name, tensor] : before.outputs) {
      const std::string output = name;
      if (output.substr(0, 6) == "final_") call.Put("initial_" + output.substr(6), tensor);
    }
    return call;
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV}), x_ = Normal({kB, kT, 6}), gate_ = Normal({7, 6}),
              up_ = Normal({7, 6}), down_ = Normal({6, 7});
};
INSTANTIATE_PROPERTIES(DeconstructedAttentionTest);

TEST_P(DeconstructedAttentionTest, TheMlpDoesNotMixTokens) {
  const std::vector<int64_t> order = Permutation(kT);
  ExpectClose(Out(Mlp(x_.Take(1, order)), "y"), Out(Mlp(x_), "y").Take(1, order));
  Array y(x_.shape());
  for (int64_t row = 0; row < kB * kT; ++row) {
    for (int64_t f = 0; f < 7; ++f) {
      const double gate = Dot(&x_.values()[row * 6], &gate_.values()[f * 6], 6);
      const double up = Dot(&x_.values()[row * 6], &up_.values()[f * 6], 6);
      for (int64_t d = 0; d < 6; ++d) {
        y.values()[row * 6 + d] += down_(d, f) * gate / (1 + std::exp(-gate)) * up;
      }
    }
  }
  ExpectClose(Out(Mlp(x_), "y"), y);
}

TEST_P(DeconstructedAttentionTest, NonApproximateWeightsBelongToTheKeys) {
  const Array o = Out(Full("non_approximate"));
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t h = 0; h < kH; ++h) {
      double den = 0;
      for (int64_t t = 0; t < kT; ++t) {
        double score = 0;
        for (int64_t i = 0; i < kK; ++i) {
          const double q = q_(b, t, h, i);
          score += q / (1 + std::exp(-q)) * k_(b, t, h, i) / std::sqrt(static_cast<double>(kK));
        }
        const double before = den;
        den += std::exp(score);
        for (int64_t j = 0; j < kV; ++j) {
          const double last = t > 0 ? o(b, t - 1, h, j) * before : 0;
          EXPECT_NEAR(o(b, t, h, j) * den - last, std::exp(score) * v_(b, t, h, j),
                      exact() ? 1e-9 : 2e-4 * den);
        }
      }
    }
  }
}

TEST_P(DeconstructedAttentionTest, OutlyingScoresStayFinite) {
  const Array o = Out(Full("non_approximate").Set("scale", 3000.0));
  for (const double x : o.values()) EXPECT_TRUE(std::isfinite(x));
}

TEST_P(DeconstructedAttentionTest, StandardAndStaticAreSoftmaxAttention) {
  const Array softmax =
      Out(Call("softmax_attention").In("q", q_).In("k", k_).In("v", v_).Set("causal", true));
  ExpectClose(Out(Full("standard")), softmax);
  ExpectSame(Full("static_emb_qk"), Full("standard"));
}

TEST_P(DeconstructedAttentionTest, ApproximateIsBased) {
  ExpectClose(Out(Full("approximate").Set("scale", 0.6)),
              Out(Call("based").In("q", q_).In("k", k_).In("v", v_).Set("scale", 0.6)));
}

TEST_P(DeconstructedAttentionTest, FixedVariantsShareTheirWeights) {
  // More positions than tokens: the rest is not read.
  const Array q = Normal({1, kT + 9, kH, kK}), k = Normal({1, kT + 9, 1, kK});
  for (const char* variant : {"rnd_emb_qk", "fixed_seq_qk"}) {
    const auto out = [&](const Array& v) {
      return Out(Variant(variant).In("q", q).In("k", k).In("v", v));
    };
    const Array w = Normal(v_.shape());
    ExpectClose(out(v_ * 2 + w), out(v_) * 2 + out(w));
    // Every row alone, by softmax attention.
    for (int64_t b = 0; b < kB; ++b) {
      ExpectClose(out(v_).Slice(0, b, 1), Out(Call("softmax_attention")
                                                  .In("q", q.Slice(1, 0, kT))
                                                  .In("k", k.Slice(1, 0, kT))
                                                  .In("v", v_.Slice(0, b, 1))
                                                  .Set("causal", true)));
    }
  }
}

TEST_P(DeconstructedAttentionTest, SplitsHandTheStateOn) {
  for (const char* variant : {"standard", "static_emb_qk", "approximate", "non_approximate"}) {
    const Evaluation first = Run(Full(variant, 0, 13));
    ExpectClose(Out(From(Full(variant, 13, kT - 13), first)),
                Out(Full(variant)).Slice(1, 13, kT - 13));
  }
  const Array q = Normal({1, kT, kH, kK}), k = Normal({1, kT, kH, kK});
  const auto fixed = [&](int64_t begin, int64_t count) {
    return Variant("fixed_seq_qk").In("q", q).In("k", k).In("v", v_.Slice(1, begin, count));
  };
  const Evaluation first = Run(fixed(0, 13));
  ExpectClose(Out(From(fixed(13, kT - 13), first)), Out(fixed(0, kT)).Slice(1, 13, kT - 13));
}

TEST_P(DeconstructedAttentionTest, RefusesInputsOfOtherVariants) {
  ExpectRefused(Full("standard").In("x", x_), "x: given, expected only if");
  ExpectRefused(Mlp(x_).In("q", q_), "q: given, expected only if");
  ExpectRefused(Mlp(x_).Offsets({0, kT}), "cu_seqlens: given, expected only if");
  ExpectRefused(Full("standard").In("initial_state_m", Normal({kB, kH})),
                "initial_state_m: given, expected only if");
  ExpectRefused(Full("rnd_emb_qk"), "expected one sequence [1,..] of at least 31");
  const Array one = Normal({1, kT, kH, kK}), few = Normal({1, kT - 1, kH, kK});
  ExpectRefused(Variant("rnd_emb_qk").In("q", one).In("k", few).In("v", v_),
                "k: given [1,30,2,4], expected one sequence");
  ExpectRefused(Variant("rnd_emb_qk")
                    .In("q", one)
                    .In("k", one)
                    .In("v", v_)
                    .In("initial_state_v", Normal({kB, 1, kH, kV})),
                "q: given [1,31,2,4], expected one sequence [1,..] of at least 32");
  ExpectRefused(Variant("standard").In("q", one).In("k", one).In("v", v_), "as v has for variant");
}

}  // namespace
}  // namespace attnd::testing
