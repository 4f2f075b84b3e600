// What flow attention promises.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 53, kS = 37, kH = 2, kK = 8, kV = 6;

class FlowAttentionTest : public PropertyTest {
 protected:
  CallBuilder Flow(const Array& q, const Array& k, const Array& v) const {
    return Call("flow_attention").In("q", q).In("k", k).In("v", v);
  }
  static double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kS, kH, kK}),
              v_ = Normal({kB, kS, kH, kV});
};
INSTANTIATE_PROPERTIES(FlowAttentionTest);

// The page's recurrence, token by token, with its running sums in the open.
TEST_P(FlowAttentionTest, CausalFollowsItsRecurrence) {
  constexpr double kEps = 1e-6;
  const Array k = Normal({kB, kT, kH, kK}), v = Normal({kB, kT, kH, kV});
  for (const double clamp : {1.0, 0.3, 0.0}) {
    Array expected({kB, kT, kH, kV});
    for (int64_t n = 0; n < kB; ++n) {
      for (int64_t h = 0; h < kH; ++h) {
        std::vector<double> a(kK), b(kK), sum_a(kK), sum_b(kK), sum_ai(kK), sum_bo(kK);
        Array state({kK, kV});
        double exps = 0;
        const auto flow = [&](const std::vector<double>& x, const std::vector<double>& sum) {
          double total = 0;
          for (int64_t c = 0; c < kK; ++c) total += (x[c] + kEps) * (sum[c] + kEps);
          return total;
        };
        for (int64_t t = 0; t < kT; ++t) {
          const double count = static_cast<double>(t + 1);
          for (int64_t c = 0; c < kK; ++c) {
            a[c] = Sigmoid(q_(n, t, h, c));
            b[c] = Sigmoid(k(n, t, h, c));
            sum_a[c] += a[c];
            sum_b[c] += b[c];
          }
          const double incoming = count / flow(a, sum_b), outgoing = count / flow(b, sum_a);
          for (int64_t c = 0; c < kK; ++c) {
            sum_ai[c] += a[c] * incoming;
            sum_bo[c] += b[c] * outgoing;
          }
          const double sink = flow(a, sum_bo) / count;
          double source = flow(b, sum_ai) / count;
          if (clamp > 0) source = std::clamp(source, -clamp, clamp);
          exps += std::exp(source);
          const double competition = count * std::exp(source) / exps;
          for (int64_t j = 0; j < kV; ++j) {
            for (int64_t c = 0; c < kK; ++c) {
              state(c, j) += b[c] * competition * v(n, t, h, j);
              expected(n, t, h, j) += Sigmoid(sink) * incoming / count * a[c] * state(c, j);
            }
          }
        }
      }
    }
    ExpectClose(Out(Flow(q_, k, v).Set("causal", true).Set("clamp", clamp)), expected);
  }
}

TEST_P(FlowAttentionTest, FollowsPermutationsOfQueriesAndIgnoresThoseOfKeys) {
  const std::vector<int64_t> queries = Permutation(kT), keys = Permutation(kS);
  ExpectClose(Out(Flow(q_.Take(1, queries), k_.Take(1, keys), v_.Take(1, keys))),
              Out(Flow(q_, k_, v_)).Take(1, queries));
}

// The sinks' conserved inflow: sigmoid^-1 of what v = 1 leaves is read off a call in which the
// competition is even, so that o_i = sigmoid(c_i T/S) I_i a_i·Σb.
TEST_P(FlowAttentionTest, InflowIsConserved) {
  const std::vector<int64_t> first(kS, 0);
  const Array o = Out(Flow(q_, k_.Take(1, first), Array({kB, kS, kH, kV}, 1)));
  for (int64_t n = 0; n < kB; ++n) {
    for (int64_t h = 0; h < kH; ++h) {
      double total = 0;
      for (int64_t i = 0; i < kT; ++i) {
        const double x = o(n, i, h, 0);
        total += std::log(x / (1 - x)) * kS / kT;
      }
      EXPECT_NEAR(total, kS, 1e-3 * kS);
    }
  }
}

TEST_P(FlowAttentionTest, OneTokenIsTheSameCausalOrNot) {
  const auto one = [](const Array& x) { return x.Slice(1, 0, 1); };
  const CallBuilder call = Flow(one(q_), one(k_), one(v_));
  ExpectClose(Out(CallBuilder(call).Set("causal", true)), Out(call));
}

TEST_P(FlowAttentionTest, EqualTokensGiveHalfOfALogistic) {
  const std::vector<int64_t> first(kT, 0);
  const Array o = Out(
      Flow(q_.Take(1, first), k_.Take(1, std::vector<int64_t>(kT, 0)), Array({kB, kT, kH, kV}, 1)));
  for (const double x : o.values()) EXPECT_NEAR(x, Sigmoid(1), 1e-4);
}

TEST_P(FlowAttentionTest, RefusesStatesAndPackingThatHaveNoUse) {
  const CallBuilder call = Flow(q_, k_, v_);
  ExpectRefused(CallBuilder(call).Set("causal", true), "as many keys as queries");
  ExpectRefused(CallBuilder(call).Offsets({0, kT}), "cu_seqlens: given");
  ExpectRefused(CallBuilder(call).In("initial_state", Array({kB, kH, kK, kV})),
                "initial_state: given");
  const Array k = Normal(q_.shape()), v = Normal({kB, kT, kH, kV});
  const Array sums({kB, kH, kK}, 1);
  CallBuilder causal =
      Flow(q_, k, v).Set("causal", true).In("initial_state", Array({kB, kH, kK, kV}));
  ExpectRefused(causal, "initial_state_k: missing");
  for (const char* name :
       {"initial_state_k", "initial_state_q", "initial_state_ko", "initial_state_qi"})
    causal.In(name, sums);
  causal.In("initial_state_exp", Array({kB, kH}, 1));
  ExpectRefused(causal, "initial_state_count: missing");
  ExpectRefused(CallBuilder(causal).Int("initial_state_count", {kB}, {3, -1}),
                "initial_state_count");
  ExpectRefused(
      CallBuilder(causal).Put("initial_state_count",
                              HostTensor<int64_t>({kB}, {3, std::numeric_limits<int64_t>::max()})),
      "initial_state_count");
  ExpectRefused(CallBuilder(call).Set("feature_map", "tanh"), "sigmoid");
  ExpectRefused(Flow(q_, Array({kB, 0, kH, kK}), Array({kB, 0, kH, kV})), "at least one key");
}

}  // namespace
}  // namespace attnd::testing
