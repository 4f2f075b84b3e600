// What a diagonal plus rank-one transition promises.
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 35, kH = 2, kK = 5, kV = 4;

class Rwkv7Test : public PropertyTest {
 protected:
  CallBuilder Rwkv7() {
    return Call("rwkv7").In("r", r_).In("w", w_).In("k", k_).In("v", v_).In("initial_state",
                                                                            state_);
  }
  CallBuilder General(const Array& a, const Array& b) { return Rwkv7().In("a", a).In("b", b); }

  const Array r_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV}), w_ = Uniform({kB, kT, kH, kK}, -0.6, 0),
              kk_ = Normal({kB, kT, kH, kK}).Unit(), rate_ = Uniform({kB, kT, kH, kK}, 0, 1),
              state_ = Normal({kB, kH, kK, kV});
};
INSTANTIATE_PROPERTIES(Rwkv7Test);

TEST_P(Rwkv7Test, BothSpellingsAgree) {
  ExpectSame(Rwkv7().In("kk", kk_).In("rate", rate_), General(kk_ * -1, kk_ * rate_));
}

TEST_P(Rwkv7Test, WithoutARateItIsGatedLinearAttention) {
  ExpectSame(Rwkv7().In("kk", kk_).In("rate", Array(kk_.shape())), Call("gla")
                                                                       .In("q", r_)
                                                                       .In("k", k_)
                                                                       .In("v", v_)
                                                                       .In("g", w_)
                                                                       .In("initial_state", state_)
                                                                       .Set("scale", 1.0));
}

TEST_P(Rwkv7Test, TiedVectorsAreTheDeltaRules) {
  const Array beta = Uniform({kB, kT, kH}, 0, 1), spread = beta.Spread(kK);
  const auto delta = [&](const char* op) {
    return Call(op)
        .In("q", r_)
        .In("k", kk_)
        .In("v", v_)
        .In("beta", beta)
        .In("initial_state", state_)
        .Set("scale", 1.0);
  };
  const Array write = kk_ * spread;
  const Array decayed = kk_ * w_.Map([](double w) { return std::exp(w); });
  ExpectSame(General(decayed, write * -1).In("k", write), delta("kda").In("g", w_));
  ExpectSame(General(kk_, write * -1).In("k", write).In("w", Array(w_.shape())),
             delta("delta_rule"));
}

TEST_P(Rwkv7Test, IsAProductOfDenseTransitions) {
  const Array a = Normal(k_.shape()) * 0.3, b = Normal(k_.shape()) * 0.3;
  Array o(v_.shape());
  for (int64_t n = 0; n < kB; ++n) {
    for (int64_t h = 0; h < kH; ++h) {
      // Read backwards: the row r^T A_t A_{t-1} .. meets every write, and the state at last.
      for (int64_t t = 0; t < kT; ++t) {
        std::vector<double> row(kK);
        for (int64_t i = 0; i < kK; ++i) row[i] = r_(n, t, h, i);
        for (int64_t s = t; s >= 0; --s) {
          double write = 0, through = 0;
          for (int64_t i = 0; i < kK; ++i) {
            write += row[i] * k_(n, s, h, i);
            through += row[i] * b(n, s, h, i);
          }
          for (int64_t j = 0; j < kV; ++j) o(n, t, h, j) += write * v_(n, s, h, j);
          for (int64_t i = 0; i < kK; ++i) {
            row[i] = row[i] * std::exp(w_(n, s, h, i)) + through * a(n, s, h, i);
          }
        }
        for (int64_t i = 0; i < kK; ++i) {
          for (int64_t j = 0; j < kV; ++j) o(n, t, h, j) += row[i] * state_(n, h, i, j);
        }
      }
    }
  }
  ExpectClose(Out(General(a, b)), o);
}

// Swaps of two entries: I - 2 u u^T with u = (e_i - e_j) / sqrt 2.
TEST_P(Rwkv7Test, TracksSwapsExactly) {
  Array a({1, kT, 1, kK}), b({1, kT, 1, kK}), identity({1, 1, kK, kK});
  std::vector<int64_t> order(kK);
  for (int64_t i = 0; i < kK; ++i) {
    order[i] = i;
    identity(0, 0, i, i) = 1;
  }
  for (int64_t t = 0; t < kT; ++t) {
    const std::vector<int64_t> pair = Permutation(kK);
    a(0, t, 0, pair[0]) = 1;
    a(0, t, 0, pair[1]) = -1;
    b(0, t, 0, pair[0]) = -1;
    b(0, t, 0, pair[1]) = 1;
    std::swap(order[pair[0]], order[pair[1]]);
  }
  const Array zeros({1, kT, 1, kK});
  const Array state = Out(Call("rwkv7")
                              .In("r", zeros)
                              .In("w", zeros)
                              .In("k", zeros)
                              .In("v", zeros)
                              .In("a", a)
                              .In("b", b)
                              .In("initial_state", identity),
                          "final_state");
  for (int64_t i = 0; i < kK; ++i) EXPECT_EQ(state(0, 0, i, order[i]), 1);
}

TEST_P(Rwkv7Test, RefusesHalvesAndBoth) {
  ExpectRefused(Rwkv7(), "either a and b, or kk and rate");
  ExpectRefused(Rwkv7().In("a", kk_), "a and b together");
  ExpectRefused(Rwkv7().In("rate", rate_), "kk and rate together");
  ExpectRefused(General(kk_, kk_).In("kk", kk_).In("rate", rate_), "either a and b");
}

}  // namespace
}  // namespace attnd::testing
