// What one normaliser over a window and all before it promises.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 37, kH = 2, kK = 5, kF = 3, kV = 4, kW = 5;

class LolcatsTest : public PropertyTest {
 protected:
  CallBuilder Lolcats(const Array& q, const Array& k, const Array& v, const Array& factor) {
    return Call("lolcats")
        .In("q", q)
        .In("k", k)
        .In("v", v)
        .In("w_q", w_q_)
        .In("w_k", w_k_)
        .In("window_factor", factor);
  }
  CallBuilder Lolcats() { return Lolcats(q_, k_, v_, factor_); }
  static std::vector<double> Features(const Array& x, const Array& w, int64_t b, int64_t t,
                                      int64_t h) {
    std::vector<double> phi(2 * kF);
    double up = 0, down = 0;
    for (int64_t f = 0; f < kF; ++f) {
      double y = 0;
      for (int64_t i = 0; i < kK; ++i) y += x(b, t, h, i) * w(h, i, f);
      up += phi[f] = std::exp(y);
      down += phi[kF + f] = std::exp(-y);
    }
    for (int64_t f = 0; f < kF; ++f) {
      phi[f] /= up;
      phi[kF + f] /= down;
    }
    return phi;
  }
  // The full-matrix form.
  Array Matrix(bool terraced, bool affine, double scale) const {
    Array o(v_.shape());
    for (int64_t b = 0; b < kB; ++b) {
      for (int64_t h = 0; h < kH; ++h) {
        const double gamma = 1 / (1 + std::exp(-factor_(h))), lambda = affine ? 1 - gamma : 1;
        for (int64_t t = 0; t < kT; ++t) {
          const auto near = [&](int64_t j) { return terraced ? j / kW >= t / kW - 1 : j > t - kW; };
          const auto score = [&](int64_t j) {
            double sum = 0;
            for (int64_t i = 0; i < kK; ++i) sum += q_(b, t, h, i) * k_(b, j, h, i);
            return scale * sum;
          };
          double most = -std::numeric_limits<double>::infinity(), total = 0;
          for (int64_t j = 0; j <= t; ++j) most = near(j) ? std::max(most, score(j)) : most;
          const std::vector<double> phi = Features(q_, w_q_, b, t, h);
          for (int64_t j = 0; j <= t; ++j) {
            const double weight =
                near(j) ? gamma * std::exp(score(j) - most)
                        : lambda * Dot(phi.data(), Features(k_, w_k_, b, j, h).data(), 2 * kF);
            total += weight;
            for (int64_t c = 0; c < kV; ++c) o(b, t, h, c) += weight * v_(b, j, h, c);
          }
          for (int64_t c = 0; c < kV; ++c) o(b, t, h, c) /= total;
        }
      }
    }
    return o;
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV}), w_q_ = Normal({kH, kK, kF}) * 0.5,
              w_k_ = Normal({kH, kK, kF}) * 0.5, factor_ = Normal({kH});
};
INSTANTIATE_PROPERTIES(LolcatsTest);

TEST_P(LolcatsTest, IsItsFullMatrix) {
  for (const bool terraced : {false, true}) {
    const std::string kind = terraced ? "terraced" : "sliding";
    const CallBuilder call = Lolcats().Set("window", kW).Set("window_kind", kind);
    ExpectClose(Out(call), Matrix(terraced, false, 1 / std::sqrt(static_cast<double>(kK))));
    ExpectClose(Out(CallBuilder(call).Set("affine_factors", true).Set("scale", 0.9)),
                Matrix(terraced, true, 0.9));
  }
}

TEST_P(LolcatsTest, AWindowOverAllIsSoftmaxAttention) {
  const Array softmax =
      Out(Call("softmax_attention").In("q", q_).In("k", k_).In("v", v_).Set("causal", true));
  for (const char* kind : {"sliding", "terraced"}) {
    ExpectClose(Out(Lolcats().Set("window_kind", std::string(kind)).Set("window", kT + 3)),
                softmax);
  }
}

TEST_P(LolcatsTest, NothingNearIsHedgehogOverEarlierTokens) {
  const Array o = Out(Lolcats(q_, k_, v_, Array({kH}, -60)).Set("window", int64_t{1}));
  // Queries from the second on, keys and values up to the last but one.
  const auto hedgehog = [&](const Array& q, const Array& k, const Array& v) {
    return Call("hedgehog").In("q", q).In("k", k).In("v", v).In("w_q", w_q_).In("w_k", w_k_);
  };
  ExpectClose(o.Slice(1, 1, kT - 1), Out(hedgehog(q_.Slice(1, 1, kT - 1), k_.Slice(1, 0, kT - 1),
                                                  v_.Slice(1, 0, kT - 1))));
}

TEST_P(LolcatsTest, SplitsAnywhereHandTheStateOn) {
  for (const char* kind : {"sliding", "terraced"}) {
    const auto part = [&](int64_t begin, int64_t count) {
      const auto cut = [&](const Array& x) { return x.Slice(1, begin, count); };
      return Lolcats(cut(q_), cut(k_), cut(v_), factor_)
          .Set("window", kW)
          .Set("window_kind", std::string(kind));
    };
    const Evaluation whole = Run(part(0, kT));
    for (const int64_t at : {int64_t{1}, kW - 1, kW, kW + 1, 2 * kW, 3 * kW + 2, kT - 1}) {
      const Evaluation first = Run(part(0, at));
      CallBuilder rest = part(at, kT - at);
      for (const char* state : {"state", "state_z", "state_k", "state_v", "state_pos"}) {
        rest.Put(absl::StrCat("initial_", state), Output(first, absl::StrCat("final_", state)));
      }
      const Evaluation second = Run(rest);
      ExpectClose(Array(Output(second, "o")), Array(Output(whole, "o")).Slice(1, at, kT - at));
      for (const char* state : {"final_state", "final_state_z", "final_state_k"}) {
        ExpectClose(Array(Output(second, state)), Array(Output(whole, state)));
      }
    }
  }
}

TEST_P(LolcatsTest, BothKindsAgreeWhileNothingIsFar) {
  const auto kind = [&](const char* name, int64_t window) {
    return Out(Lolcats().Set("window_kind", std::string(name)).Set("window", window));
  };
  ExpectClose(kind("terraced", kT), kind("sliding", kT));
  EXPECT_GT(RelativeError(kind("terraced", kW), kind("sliding", kW)), 1e-3);
}

TEST_P(LolcatsTest, EqualValuesComeBack) {
  const Array ones(v_.shape(), 1);
  ExpectClose(Out(Lolcats(q_, k_, ones, factor_).Set("window", kW)), ones);
}

// Keys of the window moved so that all its logits shift by one amount; features, by weights that do
// not see that direction, stay.
TEST_P(LolcatsTest, AShiftOfTheWindowsLogitsLeavesItsWeights) {
  Array q = q_, k = k_, w_q = w_q_, w_k = w_k_;
  for (int64_t h = 0; h < kH; ++h) {
    for (int64_t f = 0; f < kF; ++f) w_q(h, 0, f) = w_k(h, 0, f) = 0;
  }
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t t = 0; t < kT; ++t) {
      for (int64_t h = 0; h < kH; ++h) q(b, t, h, 0) = 1;
    }
  }
  const Array moved = [&] {
    Array shifted = k;
    for (int64_t b = 0; b < kB; ++b) {
      for (int64_t t = 0; t < kT; ++t) {
        for (int64_t h = 0; h < kH; ++h) shifted(b, t, h, 0) += 3;
      }
    }
    return shifted;
  }();
  const auto out = [&](const Array& keys) {
    return Out(Lolcats(q, keys, v_, factor_).In("w_q", w_q).In("w_k", w_k).Set("window", kW));
  };
  ExpectClose(out(moved), out(k));
}

TEST_P(LolcatsTest, RefusesWhatDoesNotFit) {
  ExpectRefused(Lolcats().Set("window", int64_t{0}), "window: given 0");
  ExpectRefused(Lolcats(q_, k_, v_, Normal({kH + 1})), "window_factor: given [3]");
  ExpectRefused(Lolcats().In("initial_state", Normal({kB, kH, 2 * kF, kV})),
                "all of the state, or none of it");
  CallBuilder call = Lolcats().Set("window", kW);
  call.In("initial_state", Normal({kB, kH, 2 * kF, kV}))
      .In("initial_state_z", Normal({kB, kH, 2 * kF}))
      .In("initial_state_v", Normal({kB, kW, kH, kV}))
      .Put("initial_state_pos", HostTensor<int64_t>({kB}, {0, 0}));
  ExpectRefused(CallBuilder(call).In("initial_state_k", Normal({kB, kW + 1, kH, kK})),
                "initial_state_k: given");
  ExpectRefused(call, "expected all of the");
}

}  // namespace
}  // namespace attnd::testing
