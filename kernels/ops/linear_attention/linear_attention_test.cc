// What linear attention promises, for every feature map.
#include <cmath>
#include <limits>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 71, kH = 2, kK = 12, kV = 10;
constexpr const char* kMaps[] = {"identity", "elu1", "relu", "relu2", "silu", "exp", "softmax"};

class LinearAttentionTest : public PropertyTest {
 protected:
  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV});

  CallBuilder Linear() { return Linear(q_, k_, v_); }
  CallBuilder Linear(const Array& q, const Array& k, const Array& v) {
    return Call("linear_attention").In("q", q).In("k", k).In("v", v);
  }

  static Array Features(const Array& x, const std::string& map) {
    if (map == "elu1") return x.Map([](double a) { return a > 0 ? a + 1 : std::exp(a); });
    if (map == "relu") return x.Map([](double a) { return std::max(a, 0.0); });
    if (map == "relu2") return x.Map([](double a) { return a > 0 ? a * a : 0; });
    if (map == "silu") return x.Map([](double a) { return a / (1 + std::exp(-a)); });
    if (map == "exp") return x.Map([](double a) { return std::exp(a); });
    if (map != "softmax") return x;
    Array out = x.Map([](double a) { return std::exp(a); });
    for (size_t row = 0; row < out.values().size(); row += kK) {
      double sum = 0;
      for (size_t c = 0; c < kK; ++c) sum += out.values()[row + c];
      for (size_t c = 0; c < kK; ++c) out.values()[row + c] /= sum;
    }
    return out;
  }
};
INSTANTIATE_PROPERTIES(LinearAttentionTest);

TEST_P(LinearAttentionTest, EqualsItsQuadraticForm) {
  for (const char* map : kMaps) {
    for (const bool causal : {false, true}) {
      SCOPED_TRACE(absl::StrCat(map, causal ? " causal" : ""));
      const Array q = Features(q_, map), k = Features(k_, map);
      Array expected({kB, kT, kH, kV});
      for (int64_t b = 0; b < kB; ++b) {
        for (int64_t h = 0; h < kH; ++h) {
          for (int64_t t = 0; t < kT; ++t) {
            for (int64_t s = 0; s < (causal ? t + 1 : kT); ++s) {
              const double weight = Dot(&q.values()[((b * kT + t) * kH + h) * kK],
                                        &k.values()[((b * kT + s) * kH + h) * kK], kK) /
                                    std::sqrt(double{kK});
              for (int64_t c = 0; c < kV; ++c) expected(b, t, h, c) += weight * v_(b, s, h, c);
            }
          }
        }
      }
      ExpectClose(Out(Linear().Set("feature_map", map).Set("causal", causal)), expected);
    }
  }
}

TEST_P(LinearAttentionTest, WeightsOfAPositiveMapSumToOne) {
  for (const char* map : {"elu1", "relu2", "exp", "softmax"}) {
    for (const bool causal : {false, true}) {
      SCOPED_TRACE(absl::StrCat(map, causal ? " causal" : ""));
      // Positive inputs, so that no row of relu2 is all zeros.
      const Array q = q_.Map([](double x) { return std::abs(x) + 0.1; });
      const Array k = k_.Map([](double x) { return std::abs(x) + 0.1; });
      const Array ones(v_.shape(), 1);
      ExpectClose(Out(Linear(q, k, ones)
                          .Set("feature_map", map)
                          .Set("normalize", true)
                          .Set("eps", 0.0)
                          .Set("causal", causal)),
                  ones);
    }
  }
}

TEST_P(LinearAttentionTest, TheLastCausalRowIsANonCausalRow) {
  for (const bool normalize : {false, true}) {
    const CallBuilder call = Linear().Set("feature_map", "elu1").Set("normalize", normalize);
    const auto last = [](const Array& o) { return o.Slice(1, kT - 1, 1); };
    ExpectClose(last(Out(CallBuilder(call).Set("causal", true))),
                last(Out(CallBuilder(call).Set("causal", false))));
  }
}

TEST_P(LinearAttentionTest, TheOrderOfKeysDoesNotMatterWithoutCausality) {
  const std::vector<int64_t> order = Permutation(kT);
  const CallBuilder call =
      Linear().Set("causal", false).Set("feature_map", "elu1").Set("normalize", true);
  ExpectClose(Out(CallBuilder(call).In("k", k_.Take(1, order)).In("v", v_.Take(1, order))),
              Out(call));
}

TEST_P(LinearAttentionTest, IsLinearInValues) {
  const Array other = Normal(v_.shape());
  for (const bool normalize : {false, true}) {
    const auto with = [&](const Array& v) {
      return Out(Linear(q_, k_, v).Set("feature_map", "elu1").Set("normalize", normalize));
    };
    ExpectClose(with(v_ * 2 + other), with(v_) * 2 + with(other));
  }
}

TEST_P(LinearAttentionTest, MaskedKeysDoNotCount) {
  constexpr int64_t kKept = 40;
  Array mask({kB, kT});
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t s = 0; s < kKept; ++s) mask(b, s) = 1;
  }
  const CallBuilder call =
      Linear().Set("causal", false).Set("feature_map", "elu1").Set("normalize", true);
  ExpectClose(Out(CallBuilder(call).Bool("k_mask", mask)),
              Out(CallBuilder(call).In("k", k_.Slice(1, 0, kKept)).In("v", v_.Slice(1, 0, kKept))));
  // A row with no key left is zeros, not 0/0.
  const Array nothing = Out(CallBuilder(call).Bool("k_mask", Array({kB, kT})));
  EXPECT_THAT(nothing.values(), ::testing::Each(0.0));
}

TEST_P(LinearAttentionTest, ASoftmaxFeatureOfNothingIsNan) {
  Array q = q_;
  for (int64_t c = 0; c < kK; ++c) q(0, 3, 0, c) = -std::numeric_limits<double>::infinity();
  for (const bool causal : {false, true}) {
    const Array o = Out(Linear(q, k_, v_).Set("feature_map", "softmax").Set("causal", causal));
    EXPECT_TRUE(std::isnan(o(0, 3, 0, 0)));
    EXPECT_TRUE(std::isfinite(o(0, 4, 0, 0)));
  }
}

TEST_P(LinearAttentionTest, RefusesWhatItsFormHasNoUseFor) {
  const Array state = Normal({kB, kH, kK, kV});
  ExpectRefused(Linear().Set("causal", false).In("initial_state", state), "initial_state");
  ExpectRefused(Linear().Set("causal", false).Offsets({0, kT}), "cu_seqlens");
  ExpectRefused(Linear().Bool("k_mask", Array({kB, kT}, 1)), "k_mask");
  ExpectRefused(Linear().In("initial_state_z", Normal({kB, kH, kK})), "initial_state_z");
  ExpectRefused(Linear(q_, k_.Slice(1, 0, 5), v_.Slice(1, 0, 5)), "as many keys as queries");
}

}  // namespace
}  // namespace attnd::testing
