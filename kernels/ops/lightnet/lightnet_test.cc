// What softmax-weighted running means promise.
#include <cmath>
#include <limits>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 43, kH = 2, kK = 6, kV = 5;
constexpr double kNothing = -std::numeric_limits<double>::infinity();

class LightnetTest : public PropertyTest {
 protected:
  CallBuilder Means(const Array& k) { return Call("lightnet").In("q", q_).In("k", k).In("v", v_); }
  CallBuilder Means() { return Means(k_); }
  // scale sum_i silu(q_i) (softmax over s <= t, or all s, of k_i) v.
  Array Mean(bool causal) const {
    Array o(v_.shape());
    for (int64_t b = 0; b < kB; ++b) {
      for (int64_t h = 0; h < kH; ++h) {
        for (int64_t t = 0; t < kT; ++t) {
          for (int64_t i = 0; i < kK; ++i) {
            const double x = q_(b, t, h, i);
            const double q = x / (1 + std::exp(-x)) / std::sqrt(static_cast<double>(kK));
            double sum = 0;
            const int64_t end = causal ? t + 1 : kT;
            for (int64_t s = 0; s < end; ++s) sum += std::exp(k_(b, s, h, i));
            for (int64_t s = 0; s < end; ++s) {
              const double weight = q * std::exp(k_(b, s, h, i)) / sum;
              for (int64_t j = 0; j < kV; ++j) o(b, t, h, j) += weight * v_(b, s, h, j);
            }
          }
        }
      }
    }
    return o;
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV});
};
INSTANTIATE_PROPERTIES(LightnetTest);

TEST_P(LightnetTest, IsARunningWeightedMean) {
  ExpectClose(Out(Means()), Mean(true));
  ExpectClose(Out(Means().Set("causal", false)), Mean(false));
}

TEST_P(LightnetTest, TheLastTokenSeesAll) {
  ExpectClose(Out(Means()).Slice(1, kT - 1, 1),
              Out(Means().Set("causal", false)).Slice(1, kT - 1, 1));
}

TEST_P(LightnetTest, TheOrderOfAFullCallDoesNotMatter) {
  const std::vector<int64_t> order = Permutation(kT);
  const CallBuilder call = Means().Set("causal", false);
  ExpectClose(Out(CallBuilder(call)
                      .In("q", q_.Take(1, order))
                      .In("k", k_.Take(1, order))
                      .In("v", v_.Take(1, order))),
              Out(call).Take(1, order));
}

TEST_P(LightnetTest, WeightsOfAChannelSumToOne) {
  for (const bool causal : {true, false}) {
    const CallBuilder call = Means()
                                 .In("v", Array(v_.shape(), 1))
                                 .In("q", Array(q_.shape(), 1))
                                 .Set("q_silu", false)
                                 .Set("scale", 0.5)
                                 .Set("causal", causal);
    ExpectClose(Out(call), Array(v_.shape(), 0.5 * kK));
  }
}

TEST_P(LightnetTest, HugeLogitsAreExact) {
  // A constant of a channel cancels, however large.
  for (const double shift : {1000.0, -1000.0}) {
    const Array rounded = k_.Map([](double x) { return std::round(x * 64) / 64; });
    const Array shifted = rounded.Map([shift](double x) { return x + shift; });
    for (const bool causal : {true, false}) {
      ExpectClose(Out(Means(shifted).Set("causal", causal)),
                  Out(Means(rounded).Set("causal", causal)));
    }
  }
  const Array o = Out(Means(k_ * 1000));
  for (const double x : o.values()) EXPECT_TRUE(std::isfinite(x));
}

TEST_P(LightnetTest, SplitsHandTheLogSumOn) {
  for (const char* lrpe : {"none", "rotate", "cosine"}) {
    const auto part = [&](int64_t begin, int64_t count) {
      return Call("lightnet")
          .In("q", q_.Slice(1, begin, count))
          .In("k", k_.Slice(1, begin, count))
          .In("v", v_.Slice(1, begin, count))
          .Set("lrpe", std::string(lrpe));
    };
    const Evaluation first = Run(part(0, 17));
    CallBuilder second = part(17, kT - 17);
    for (const char* state : {"state", "state_z", "state_pos"}) {
      const Tensor* value = first.outputs.Find(absl::StrCat("final_", state));
      if (value != nullptr) second.Put(absl::StrCat("initial_", state), *value);
    }
    ExpectClose(Out(second), Out(part(0, kT)).Slice(1, 17, kT - 17));
  }
}

TEST_P(LightnetTest, AbsentLogSumsAreNothingAndZerosAVirtualToken) {
  const Array nothing({kB, kH, kK}, kNothing), zeros({kB, kH, kK});
  ExpectSame(Means().In("initial_state_z", nothing), Means());
  // A token of logit 0 and value 0 before the first.
  const auto with_first = [](const Array& x) {
    Dims shape = x.shape();
    shape[1] = 1;
    const std::vector<Array> parts = {Array(shape), x};
    return Concatenate(parts, 1);
  };
  ExpectClose(
      Out(Means().In("initial_state_z", zeros)),
      Out(Call("lightnet").In("q", with_first(q_)).In("k", with_first(k_)).In("v", with_first(v_)))
          .Slice(1, 1, kT));
  const Evaluation none = Run(Call("lightnet")
                                  .In("q", Array({kB, 0, kH, kK}))
                                  .In("k", Array({kB, 0, kH, kK}))
                                  .In("v", Array({kB, 0, kH, kV})));
  EXPECT_EQ(Array(Output(none, "final_state_z")).values(), nothing.values());
}

TEST_P(LightnetTest, EncodesQueriesAndNormalisedKeys) {
  // Through lrpe and linear attention, with the softmax as keys.
  const Array ones(q_.shape(), 1);
  for (const char* kind : {"rotate", "cosine"}) {
    const Array theta = Normal({kH, 3});
    Array p = k_;
    for (int64_t b = 0; b < kB; ++b) {
      for (int64_t h = 0; h < kH; ++h) {
        for (int64_t i = 0; i < kK; ++i) {
          double sum = 0;
          for (int64_t s = 0; s < kT; ++s) sum += std::exp(k_(b, s, h, i));
          for (int64_t s = 0; s < kT; ++s) p(b, s, h, i) = std::exp(k_(b, s, h, i)) / sum;
        }
      }
    }
    const auto encoded = [&](const Array& x) {
      return Out(Call("lrpe").In("x", x).In("theta", theta).Set("kind", std::string(kind)), "y");
    };
    ExpectClose(Out(Means()
                        .In("theta", theta)
                        .Set("lrpe", std::string(kind))
                        .Set("causal", false)
                        .Set("q_silu", false)),
                Out(Call("linear_attention")
                        .In("q", encoded(q_))
                        .In("k", encoded(p))
                        .In("v", v_)
                        .Set("causal", false)
                        .Set("scale", 1 / std::sqrt(static_cast<double>(kK)))));
    // A grid of one row is a sequence.
    ExpectClose(
        Out(Means()
                .In("theta", theta.Reshape({kH, 3}).Slice(1, 0, 3))
                .Set("lrpe", std::string("rotate"))
                .Set("causal", false)
                .Set("width", kT)),
        Out(Means().In("theta", theta).Set("lrpe", std::string("rotate")).Set("causal", false)));
  }
}

TEST_P(LightnetTest, RefusesWhatDoesNotFit) {
  ExpectRefused(Means().Set("width", kT), "a grid without causality");
  const CallBuilder grid =
      Means().Set("causal", false).Set("width", kT).Set("lrpe", std::string("rotate"));
  ExpectRefused(grid, "theta with a grid");
  ExpectRefused(CallBuilder(grid).In("theta", Normal({kH, 3})).Set("height", int64_t{2}),
                "as many tokens as the grid has");
  ExpectRefused(Means().In("theta", Normal({kH, 3})), "theta: given, expected only if");
  const Array state = Normal({kB, kH, kK, kV});
  ExpectRefused(Means().In("initial_state", state).Set("lrpe", std::string("cosine")),
                "initial_state: given");
  ExpectRefused(Means().In("initial_state", state).Set("causal", false),
                "initial_state: given, expected only if causal");
}

}  // namespace
}  // namespace attnd::testing
