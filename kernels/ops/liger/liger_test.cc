// What a recurrence gated by the key beside a window promises.
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 47, kH = 4, kHK = 2, kK = 6;

double LogSigmoid(double x) { return -std::log1p(std::exp(-x)); }

class LigerTest : public PropertyTest {
 protected:
  CallBuilder Liger() { return Call("liger").In("q", q_).In("k", k_).In("v", v_); }
  static Array Softmax(const Array& x) {
    Array y = x.Map([](double value) { return std::exp(value); });
    for (size_t row = 0; row < y.values().size(); row += kK) {
      double sum = 0;
      for (int64_t i = 0; i < kK; ++i) sum += y.values()[row + i];
      for (int64_t i = 0; i < kK; ++i) y.values()[row + i] /= sum;
    }
    return y;
  }
  CallBuilder Gla(const Array& k, const Array& g) {
    return Call("gla").In("q", Softmax(q_)).In("k", k).In("v", v_).In("g", g).Set("scale", 1.0);
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kHK, kK}),
              v_ = Normal({kB, kT, kHK, kK});
};
INSTANTIATE_PROPERTIES(LigerTest);

TEST_P(LigerTest, WithoutTheRecurrenceItIsSoftmaxAttention) {
  const Array q = Normal(q_.shape()), k = Normal(k_.shape());
  const auto softmax = [&](const Array& queries, const Array& keys) {
    return Call("softmax_attention").In("q", queries).In("k", keys).In("v", v_).Set("causal", true);
  };
  const CallBuilder window = Liger().Set("linear_weight", 0.0).Set("window_weight", 1.0);
  ExpectClose(Out(CallBuilder(window).Set("window_left", kT)), Out(softmax(q_, k_)));
  ExpectClose(Out(CallBuilder(window).Set("window_left", int64_t{5})),
              Out(softmax(q_, k_).Set("window_left", int64_t{5})));
  ExpectClose(Out(CallBuilder(window).In("q_rope", q).In("k_rope", k)), Out(softmax(q, k)));
}

TEST_P(LigerTest, WithoutTheWindowItIsGatedLinearAttention) {
  const CallBuilder linear = Liger().Set("linear_weight", 1.0).Set("window_weight", 0.0);
  ExpectClose(Out(linear), Out(Gla(Softmax(k_), k_.Map(LogSigmoid) * (1.0 / 16))));
  ExpectClose(Out(CallBuilder(linear).Set("variant", std::string("hgrn2"))),
              Out(Gla(k_.Map([](double x) { return 1 / (1 + std::exp(x)); }), k_.Map(LogSigmoid))));
}

TEST_P(LigerTest, IsItsQuadraticForm) {
  const Array q = Softmax(q_), k = Softmax(k_);
  Array o({kB, kT, kH, kK});
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t h = 0; h < kH; ++h) {
      const int64_t shared = h / (kH / kHK);
      for (int64_t t = 0; t < kT; ++t) {
        for (int64_t s = 0; s <= t; ++s) {
          double weight = 0;
          for (int64_t i = 0; i < kK; ++i) {
            double decay = 0;
            for (int64_t r = s + 1; r <= t; ++r) decay += LogSigmoid(k_(b, r, shared, i)) / 2;
            weight += q(b, t, h, i) * k(b, s, shared, i) * std::exp(decay);
          }
          for (int64_t j = 0; j < kK; ++j) o(b, t, h, j) += 0.3 * weight * v_(b, s, shared, j);
        }
      }
    }
  }
  ExpectClose(
      Out(Liger().Set("linear_weight", 0.3).Set("window_weight", 0.0).Set("gate_normalizer", 2.0)),
      o);
}

TEST_P(LigerTest, BranchesAdd) {
  const CallBuilder call = Liger().Set("window_left", int64_t{4});
  const Array linear = Out(CallBuilder(call).Set("window_weight", 0.0).Set("linear_weight", 1.0));
  const Array window = Out(CallBuilder(call).Set("window_weight", 1.0).Set("linear_weight", 0.0));
  ExpectClose(Out(call), linear * 0.5 + window * 0.5);
}

TEST_P(LigerTest, LargeKeysKeepEverything) {
  const Array large(k_.shape(), 1e4);
  const Array state = Normal({kB, kH, kK, kK});
  // gla: no decay; the softmax of equal logits is uniform.
  const CallBuilder linear = Liger().In("k", large).Set("window_weight", 0.0);
  const Array uniform(k_.shape(), 1.0 / kK);
  ExpectClose(Out(CallBuilder(linear).Set("linear_weight", 1.0)),
              Out(Gla(uniform, Array(k_.shape()))));
  // hgrn2: nothing is written and everything kept.
  ExpectClose(
      Out(CallBuilder(linear).Set("variant", std::string("hgrn2")).In("initial_state", state),
          "final_state"),
      state);
}

TEST_P(LigerTest, RefusesHalves) {
  ExpectRefused(Liger().Set("gate_normalizer", 0.0), "gate_normalizer: given 0");
  ExpectRefused(Liger().Set("window_left", int64_t{-1}), "window_left: given -1");
  ExpectRefused(Liger().In("k_rope", k_), "q_rope and k_rope together");
  ExpectRefused(Liger().In("initial_state_k", Normal({kB, 65, kHK, kK})), "all of the ring");
  ExpectRefused(Liger().Put("initial_state_pos", HostTensor<int64_t>({kB}, {0, 0})),
                "all of the ring");
  ExpectRefused(Liger().Set("variant", std::string("gsa")), "variant: given");
}

}  // namespace
}  // namespace attnd::testing
