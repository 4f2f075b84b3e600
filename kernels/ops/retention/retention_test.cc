// What retention promises, for its three normalisations and its rotary positions.
#include <cmath>
#include <limits>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 83, kH = 2, kK = 16, kV = 10;

class RetentionTest : public PropertyTest {
 protected:
  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV}), g_ = Uniform({kH}, -0.2, 0);

  CallBuilder Retention() {
    return Call("retention").In("q", q_).In("k", k_).In("v", v_).In("g", g_);
  }
  static CallBuilder Positions(CallBuilder call, int64_t begin) {
    return call.Put("initial_state_pos", HostTensor<int64_t>({kB}, {begin, begin}));
  }
};
INSTANTIATE_PROPERTIES(RetentionTest);

TEST_P(RetentionTest, ParallelFormEqualsTheRecurrence) {
  Array expected({kB, kT, kH, kV});
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t h = 0; h < kH; ++h) {
      for (int64_t t = 0; t < kT; ++t) {
        for (int64_t s = 0; s <= t; ++s) {
          double weight = std::exp(g_(h) * static_cast<double>(t - s)) / std::sqrt(double{kK});
          double dot = 0;
          for (int64_t c = 0; c < kK; ++c) dot += q_(b, t, h, c) * k_(b, s, h, c);
          for (int64_t c = 0; c < kV; ++c) expected(b, t, h, c) += weight * dot * v_(b, s, h, c);
        }
      }
    }
  }
  ExpectClose(Out(Retention()), expected);
}

TEST_P(RetentionTest, AShiftOfAllPositionsChangesNothing) {
  for (const char* rotary : {"half", "interleaved"}) {
    for (const char* normalize : {"none", "decay", "row"}) {
      SCOPED_TRACE(absl::StrCat(rotary, " ", normalize));
      const CallBuilder call = Retention().Set("rotary", rotary).Set("normalize", normalize);
      // Angles grow with the position, and with them what float32 rounds off of them.
      ExpectClose(Out(Positions(call, 250)), Out(Positions(call, 0)));
    }
  }
}

TEST_P(RetentionTest, PositionsAreHandedOn) {
  const Evaluation ran = Run(Positions(Retention().Set("rotary", "half"), 1000));
  for (const double position : ToDoubles(Output(ran, "final_state_pos"))) {
    EXPECT_EQ(position, 1000 + kT);
  }
}

// The paper's decoder keeps S / sqrt(n) and rescales it at every step.
TEST_P(RetentionTest, DecayNormalisationEqualsTheRescaledState) {
  Array expected({kB, kT, kH, kV});
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t h = 0; h < kH; ++h) {
      const double decay = std::exp(g_(h));
      Array s({kK, kV});
      double n = 0;
      for (int64_t t = 0; t < kT; ++t) {
        const double next = n * decay + 1;
        for (int64_t i = 0; i < kK; ++i) {
          for (int64_t j = 0; j < kV; ++j) {
            s(i, j) = s(i, j) * std::sqrt(n) * decay / std::sqrt(next) +
                      k_(b, t, h, i) * v_(b, t, h, j) / std::sqrt(next);
            expected(b, t, h, j) += q_(b, t, h, i) * s(i, j) / std::sqrt(double{kK});
          }
        }
        n = next;
      }
    }
  }
  ExpectClose(Out(Retention().Set("normalize", "decay")), expected);
}

TEST_P(RetentionTest, RowNormalisationFollowsItsDefinition) {
  Array expected({kB, kT, kH, kV});
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t h = 0; h < kH; ++h) {
      const double decay = std::exp(g_(h));
      Array s({kK, kV}), z({kK});
      double n = 0;
      for (int64_t t = 0; t < kT; ++t) {
        n = n * decay + 1;
        double row = 0;
        for (int64_t i = 0; i < kK; ++i) {
          z(i) = z(i) * decay + k_(b, t, h, i);
          row += q_(b, t, h, i) * z(i) / std::sqrt(double{kK});
        }
        const double divisor = std::sqrt(n) * std::max(std::abs(row) / std::sqrt(n), 1.0);
        for (int64_t i = 0; i < kK; ++i) {
          for (int64_t j = 0; j < kV; ++j) {
            s(i, j) = s(i, j) * decay + k_(b, t, h, i) * v_(b, t, h, j);
            expected(b, t, h, j) += q_(b, t, h, i) * s(i, j) / std::sqrt(double{kK}) / divisor;
          }
        }
      }
    }
  }
  ExpectClose(Out(Retention().Set("normalize", "row")), expected);
}

TEST_P(RetentionTest, WithoutRotationItIsLightningAttention) {
  ExpectSame(Retention().Set("scale", 1.0),
             Call("lightning_attention").In("q", q_).In("k", k_).In("v", v_).In("g", g_));
}

TEST_P(RetentionTest, WithoutDecayItIsLinearAttention) {
  ExpectSame(Retention().In("g", Array({kH})),
             Call("linear_attention").In("q", q_).In("k", k_).In("v", v_));
}

TEST_P(RetentionTest, TheDefaultDecayIsThePapers) {
  Array g({kH});
  for (int64_t h = 0; h < kH; ++h) g(h) = std::log1p(-std::exp2(-5.0 - static_cast<double>(h)));
  ExpectSame(Call("retention").In("q", q_).In("k", k_).In("v", v_), Retention().In("g", g));
}

TEST_P(RetentionTest, ASequenceWithoutTokensKeepsItsSumUnderAnyDecay) {
  const Array g({kH}, -std::numeric_limits<double>::infinity());
  const auto row = [](const Array& x) { return x.Slice(0, 0, 1); };
  const Array n = Uniform({3, kH}, 1, 2);
  const Array after = Out(Retention()
                              .In("q", row(q_))
                              .In("k", row(k_))
                              .In("v", row(v_))
                              .In("g", g)
                              .In("initial_state_n", n)
                              .Offsets({0, 0, kT, kT})
                              .Set("normalize", "decay"),
                          "final_state_n");
  for (const int64_t empty : {0, 2}) ExpectClose(after.Slice(0, empty, 1), n.Slice(0, empty, 1));
  ExpectClose(after.Slice(0, 1, 1), Array({1, kH}, 1));
}

TEST_P(RetentionTest, RefusesOddPairsAndStatesWithoutUse) {
  const Array odd = Normal({kB, kT, kH, 7});
  ExpectRefused(Retention().In("q", odd).In("k", odd).Set("rotary", "half"), "K=7");
  ExpectRefused(Retention().In("initial_state_z", Normal({kB, kH, kK})).Set("normalize", "decay"),
                "initial_state_z");
  ExpectRefused(Positions(Retention(), 3), "initial_state_pos");
  for (const int64_t seen : {int64_t{-1}, std::numeric_limits<int64_t>::max()}) {
    ExpectRefused(Positions(Retention().Set("rotary", "half"), seen), "initial_state_pos: given");
  }
}

}  // namespace
}  // namespace attnd::testing
