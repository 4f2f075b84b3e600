// What lightning attention promises.
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 131, kK = 16, kV = 12;  // Two tiles and a ragged one.

class LightningAttentionTest : public PropertyTest {
 protected:
  CallBuilder Lightning(const Array& q, const Array& k, const Array& v) {
    return Call("lightning_attention").In("q", q).In("k", k).In("v", v);
  }
  Array Queries(int64_t heads) { return Normal({kB, kT, heads, kK}); }
  Array Values(int64_t heads) { return Normal({kB, kT, heads, kV}); }

  // sum_{s<=t} exp(g (t-s)) (q_t·k_s) v_s
  static Array Quadratic(const Array& q, const Array& k, const Array& v,
                         const std::vector<double>& g) {
    Array o(v.shape());
    for (int64_t b = 0; b < kB; ++b) {
      for (int64_t h = 0; h < v.dim(2); ++h) {
        for (int64_t t = 0; t < kT; ++t) {
          for (int64_t s = 0; s <= t; ++s) {
            double dot = 0;
            for (int64_t c = 0; c < kK; ++c) dot += q(b, t, h, c) * k(b, s, h, c);
            dot *= std::exp(g[static_cast<size_t>(h)] * static_cast<double>(t - s));
            for (int64_t c = 0; c < kV; ++c) o(b, t, h, c) += dot * v(b, s, h, c);
          }
        }
      }
    }
    return o;
  }
};
INSTANTIATE_PROPERTIES(LightningAttentionTest);

TEST_P(LightningAttentionTest, SlopesAreAlibis) {
  // Eight heads: 2^-1 .. 2^-8. Three: those of four, then every other one of eight.
  for (const std::vector<double>& exponents :
       {std::vector<double>{1, 2, 3, 4, 5, 6, 7, 8}, std::vector<double>{4, 8, 2}}) {
    const auto heads = static_cast<int64_t>(exponents.size());
    const Array q = Queries(heads), k = Queries(heads), v = Values(heads);
    std::vector<double> g;
    g.reserve(exponents.size());
    for (const double exponent : exponents) g.push_back(-(1 + 1e-5) * std::exp2(-exponent));
    ExpectClose(Out(Lightning(q, k, v)), Quadratic(q, k, v, g));
  }
}

TEST_P(LightningAttentionTest, SlopesFadeWithDepth) {
  const Array q = Queries(2), k = Queries(2), v = Values(2);
  // 1 - l / (L - 1) + 1e-5 of a layer l of L.
  const double fade = 1 - 2.0 / 4 + 1e-5;
  ExpectClose(Out(Lightning(q, k, v).Set("layer_idx", 2).Set("num_layers", 5)),
              Quadratic(q, k, v, {-fade * std::exp2(-4), -fade * std::exp2(-8)}));
}

TEST_P(LightningAttentionTest, LinearSlopesGrowWithTheHead) {
  const Array q = Queries(4), k = Queries(4), v = Values(4);
  std::vector<double> g(4);
  for (size_t h = 0; h < g.size(); ++h) g[h] = -8.0 / 4 * (1 - 1.0 / 3) * static_cast<double>(h);
  ExpectClose(
      Out(Lightning(q, k, v).Set("decay", "linear").Set("layer_idx", 1).Set("num_layers", 3)),
      Quadratic(q, k, v, g));
}

TEST_P(LightningAttentionTest, WithoutDecayItIsUnscaledLinearAttention) {
  const Array q = Queries(3), k = Queries(3), v = Values(3);
  ExpectSame(Lightning(q, k, v).Set("decay", "none"),
             Call("linear_attention").In("q", q).In("k", k).In("v", v).Set("scale", 1.0));
}

TEST_P(LightningAttentionTest, EqualsGlaAndRetentionUnderTheSameDecay) {
  const Array q = Queries(3), k = Queries(3), v = Values(3), g = Uniform({3}, -0.3, 0);
  Array everywhere({kB, kT, 3});
  for (size_t i = 0; i < everywhere.values().size(); ++i) everywhere.values()[i] = g(i % 3);
  const CallBuilder ours = Lightning(q, k, v).In("g", g);
  ExpectSame(ours,
             Call("gla").In("q", q).In("k", k).In("v", v).In("g", everywhere).Set("scale", 1.0));
  ExpectSame(ours, Call("retention").In("q", q).In("k", k).In("v", v).In("g", g).Set("scale", 1.0));
}

TEST_P(LightningAttentionTest, ScalingTheValuesScalesTheOutputs) {
  const Array q = Queries(2), k = Queries(2), v = Values(2);
  ExpectClose(Out(Lightning(q, k, v * -2.5)), Out(Lightning(q, k, v)) * -2.5);
}

TEST_P(LightningAttentionTest, RefusesGrowthAndLayersThatAreNot) {
  const Array q = Queries(2), k = Queries(2), v = Values(2);
  ExpectRefused(Lightning(q, k, v).In("g", Array({2}, 0.5)), "g[0]=0.5, expected log decays <= 0");
  ExpectRefused(Lightning(q, k, v).In("g", Array({3}, -0.5)), "g: given [3]");
  ExpectRefused(Lightning(q, k, v).Set("layer_idx", 4).Set("num_layers", 4), "layer_idx");
  ExpectRefused(Lightning(q, k, v).Set("decay", "fast"), "alibi");
}

}  // namespace
}  // namespace attnd::testing
