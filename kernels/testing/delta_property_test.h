// What all operators of the delta family promise, whatever their gate. A fixture derives from
// DeltaPropertyTest and says how a call with no or with some decay is made.
#ifndef ATTND_KERNELS_TESTING_DELTA_PROPERTY_TEST_H_
#define ATTND_KERNELS_TESTING_DELTA_PROPERTY_TEST_H_

#include <cmath>
#include <functional>

#include "kernels/testing/property_test.h"

namespace attnd::testing {

class DeltaPropertyTest : public PropertyTest {
 protected:
  static constexpr int64_t kB = 2, kT = 83, kH = 2, kK = 16, kV = 12;

  // A call of the operator with its gate, if it has one, left to the caller.
  using MakeCall = std::function<CallBuilder(const Array& q, const Array& k, const Array& v)>;

  // With unit keys, beta = 1, q = k and scale = 1 a token reads back what it wrote.
  void ExpectTokensReadWhatTheyWrote(const MakeCall& call) {
    const Array k = q_.Unit();
    ExpectClose(Out(call(k, k, v_).Set("scale", 1.0).In("initial_state", state_)), v_);
  }

  // beta = 0 writes nothing: reads see the state that came in, decayed by exp(g_t) in all.
  void ExpectNothingIsWrittenWithoutBeta(const MakeCall& call, const Array& log_decay) {
    const Evaluation ran =
        Run(call(q_, k_, v_).In("beta", Array({kB, kT, kH})).In("initial_state", state_));
    Array o({kB, kT, kH, kV}), state = state_;
    ForEachHead([&](int64_t b, int64_t h) {
      for (int64_t t = 0; t < kT; ++t) {
        for (int64_t i = 0; i < kK; ++i) {
          for (int64_t j = 0; j < kV; ++j) {
            state(b, h, i, j) *= std::exp(log_decay(b, t, h, i));
            o(b, t, h, j) += q_(b, t, h, i) * state(b, h, i, j) / std::sqrt(double{kK});
          }
        }
      }
    });
    ExpectClose(Array(Output(ran, "o")), o);
    ExpectClose(Array(Output(ran, "final_state")), state);
  }

  // The dense transition, S <- (I - beta k k^T) Diag(exp(g)) S + beta k v^T.
  void ExpectTheDenseTransition(const CallBuilder& call, const Array& log_decay,
                                const Array& beta) {
    Array o({kB, kT, kH, kV}), s = state_;
    ForEachHead([&](int64_t b, int64_t h) {
      for (int64_t t = 0; t < kT; ++t) {
        for (int64_t i = 0; i < kK; ++i) {
          for (int64_t j = 0; j < kV; ++j) s(b, h, i, j) *= std::exp(log_decay(b, t, h, i));
        }
        for (int64_t j = 0; j < kV; ++j) {
          double read = 0;
          for (int64_t i = 0; i < kK; ++i) read += k_(b, t, h, i) * s(b, h, i, j);
          const double write = beta(b, t, h) * (v_(b, t, h, j) - read);
          for (int64_t i = 0; i < kK; ++i) {
            s(b, h, i, j) += k_(b, t, h, i) * write;
            o(b, t, h, j) += q_(b, t, h, i) * s(b, h, i, j) / std::sqrt(double{kK});
          }
        }
      }
    });
    const Evaluation ran = Run(call);
    ExpectClose(Array(Output(ran, "o")), o);
    ExpectClose(Array(Output(ran, "final_state")), s);
  }

  // Norms of q and k and the sigmoid of beta inside the operator equal those made outside.
  void ExpectPreparationInsideEqualsOutside(const MakeCall& call) {
    const Array raw_k = Normal({kB, kT, kH, kK}), raw_beta = Normal({kB, kT, kH});
    // The operator's norm is sqrt(sum of squares + 1e-6).
    const auto normalised = [](Array x) {
      for (size_t row = 0; row < x.values().size(); row += kK) {
        double* at = x.values().data() + row;
        const double norm = std::sqrt(Dot(at, at, kK) + 1e-6);
        for (int64_t c = 0; c < kK; ++c) at[c] /= norm;
      }
      return x;
    };
    const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
    for (const bool negative : {false, true}) {
      ExpectSame(call(q_, raw_k, v_)
                     .In("beta", raw_beta)
                     .Set("qk_l2norm", true)
                     .Set("beta_sigmoid", true)
                     .Set("allow_neg_eigval", negative),
                 call(normalised(q_), normalised(raw_k), v_)
                     .In("beta", raw_beta.Map(sigmoid) * (negative ? 2 : 1)));
    }
  }

  template <typename Function>
  static void ForEachHead(Function&& function) {
    for (int64_t b = 0; b < kB; ++b) {
      for (int64_t h = 0; h < kH; ++h) function(b, h);
    }
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}).Unit(),
              v_ = Normal({kB, kT, kH, kV}), beta_ = Uniform({kB, kT, kH}, 0, 1),
              state_ = Normal({kB, kH, kK, kV});
};

}  // namespace attnd::testing

#endif  // ATTND_KERNELS_TESTING_DELTA_PROPERTY_TEST_H_
