// What linearised relative positions promise.
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 29, kH = 3, kK = 6;

class LrpeTest : public PropertyTest {
 protected:
  CallBuilder Encode(const Array& x, const char* kind) {
    return Call("lrpe").In("x", x).Set("kind", std::string(kind));
  }
  CallBuilder Encode(const char* kind) { return Encode(x_, kind); }
  // The same row at every token.
  static Array Everywhere(const Array& row) {
    Array x({1, kT, 1, kK});
    for (int64_t t = 0; t < kT; ++t) {
      for (int64_t i = 0; i < kK; ++i) x(0, t, 0, i) = row(i);
    }
    return x;
  }
  static Tensor Position(int64_t position) { return HostTensor<int64_t>({1}, {position}); }

  const Array x_ = Normal({kB, kT, kH, kK});
};
INSTANTIATE_PROPERTIES(LrpeTest);

TEST_P(LrpeTest, ProductsDependOnTheDistanceAlone) {
  const Array q = Everywhere(Normal({kK})), k = Everywhere(Normal({kK}));
  for (const char* kind : {"cosine", "rotate"}) {
    for (const char* rule : {"head", "shared"}) {
      const auto rows = [&](const Array& x, int64_t from) {
        return Out(Encode(x, kind)
                       .Set("theta_rule", std::string(rule))
                       .Put("initial_state_pos", Position(from)),
                   "y");
      };
      const Array a = rows(q, 0), b = rows(k, 0), far = rows(k, 1000), far_q = rows(q, 1000);
      const int64_t size = a.dim(3);
      for (int64_t t = 5; t < kT; ++t) {
        const double here = Dot(&a.values()[t * size], &b.values()[(t - 3) * size], size);
        const double first = Dot(&a.values()[3 * size], &b.values()[0], size);
        const double there = Dot(&far_q.values()[t * size], &far.values()[(t - 3) * size], size);
        EXPECT_NEAR(here, first, exact() ? 1e-10 : 1e-4);
        EXPECT_NEAR(there, first, exact() ? 1e-9 : 1e-4);
      }
    }
  }
}

TEST_P(LrpeTest, NormsStay) {
  for (const char* kind : {"cosine", "rotate"}) {
    const Array y = Out(Encode(kind), "y");
    const int64_t size = y.dim(3);
    for (int64_t row = 0; row < kB * kT * kH; ++row) {
      const double* before = &x_.values()[row * kK];
      const double* after = &y.values()[row * size];
      EXPECT_NEAR(Dot(after, after, size), Dot(before, before, kK), exact() ? 1e-10 : 1e-4);
    }
  }
}

TEST_P(LrpeTest, TheFirstTokenIsAsItWas) {
  const Array y = Out(Encode("cosine"), "y").Slice(1, 0, 1);
  ExpectClose(y.Slice(3, 0, kK), x_.Slice(1, 0, 1));
  EXPECT_EQ(y.Slice(3, kK, kK).values(), Array({kB, 1, kH, kK}).values());
  ExpectClose(Out(Encode("rotate"), "y").Slice(1, 0, 1), x_.Slice(1, 0, 1));
}

TEST_P(LrpeTest, DefaultAnglesAreThoseOfTheRules) {
  for (const char* kind : {"cosine", "rotate"}) {
    const int64_t n = std::string(kind) == "cosine" ? kK : kK / 2;
    Array by_head({kH, n}), shared({1, n});
    for (int64_t h = 0; h < kH; ++h) {
      for (int64_t i = 0; i < n; ++i) {
        by_head(h, i) = std::pow(100.0, -2.0 * static_cast<double>(h * n + i) / (kH * n));
        shared(0, i) = std::pow(100.0, -2.0 * static_cast<double>(i) / kK);
      }
    }
    const CallBuilder call = Encode(kind).Set("base", 100.0);
    ExpectClose(Out(CallBuilder(call), "y"), Out(CallBuilder(call).In("theta", by_head), "y"));
    ExpectClose(Out(CallBuilder(call).Set("theta_rule", std::string("shared")), "y"),
                Out(CallBuilder(call).In("theta", shared), "y"));
  }
}

TEST_P(LrpeTest, MissingAnglesAreZero) {
  const Array theta = Normal({kH, 2});
  Array filled({kH, kK});
  for (int64_t h = 0; h < kH; ++h) {
    for (int64_t i = 0; i < 2; ++i) filled(h, i) = theta(h, i);
  }
  EXPECT_EQ(Out(Encode("cosine").In("theta", theta), "y").values(),
            Out(Encode("cosine").In("theta", filled), "y").values());
}

TEST_P(LrpeTest, SplitsHandThePositionOn) {
  for (const char* kind : {"cosine", "rotate"}) {
    const Evaluation first = Run(Encode(x_.Slice(1, 0, 11), kind));
    const Array rest = Out(Encode(x_.Slice(1, 11, kT - 11), kind)
                               .Put("initial_state_pos", Output(first, "final_state_pos")),
                           "y");
    ExpectClose(rest, Out(Encode(kind), "y").Slice(1, 11, kT - 11));
  }
}

TEST_P(LrpeTest, FarPositionsKeepTheirDigits) {
  const int64_t far = 100000;
  const Array theta({1, kK}, 1);
  const Array y = Out(Encode(Array({1, 1, 1, kK}, 1), "cosine")
                          .In("theta", theta)
                          .Put("initial_state_pos", Position(far)),
                      "y");
  EXPECT_NEAR(y(0, 0, 0, 0), std::cos(1e5), 1e-6);
  EXPECT_NEAR(y(0, 0, 0, kK), std::sin(1e5), 1e-6);
}

TEST_P(LrpeTest, ColumnsAreSequences) {
  const Array theta = Normal({kH, kK / 2});
  const CallBuilder line = Encode("rotate").In("theta", theta);
  ExpectClose(Out(CallBuilder(line).Set("height", kT).Set("width", int64_t{1}), "y"),
              Out(line, "y"));
  ExpectClose(Out(CallBuilder(line).Set("width", kT), "y"), Out(line, "y"));
}

TEST_P(LrpeTest, AxesFollowOneAnotherAndPrefixesStandStill) {
  // 2 tokens, then a grid of 3 x 9; three angles from two axes of two.
  const Array theta = Normal({1, 2});
  Array angles({1, kT, kH, 3});
  for (int64_t t = 2; t < kT; ++t) {
    const auto row = static_cast<double>((t - 2) / 9), column = static_cast<double>((t - 2) % 9);
    for (int64_t h = 0; h < kH; ++h) {
      angles(0, t, h, 0) = row * theta(0, 0);
      angles(0, t, h, 1) = row * theta(0, 1);
      angles(0, t, h, 2) = column * theta(0, 0);
    }
  }
  Array expected = x_;
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t t = 0; t < kT; ++t) {
      for (int64_t h = 0; h < kH; ++h) {
        for (int64_t i = 0; i < 3; ++i) {
          const double cos = std::cos(angles(0, t, h, i)), sin = std::sin(angles(0, t, h, i));
          const double one = x_(b, t, h, i), two = x_(b, t, h, i + 3);
          expected(b, t, h, i) = one * cos - two * sin;
          expected(b, t, h, i + 3) = one * sin + two * cos;
        }
      }
    }
  }
  const CallBuilder grid = Encode("rotate")
                               .In("theta", theta)
                               .Set("height", int64_t{3})
                               .Set("width", int64_t{9})
                               .Set("prefix", int64_t{2});
  ExpectClose(Out(grid, "y"), expected);
}

TEST_P(LrpeTest, RefusesWhatDoesNotFit) {
  ExpectRefused(Encode(Normal({1, 4, 1, 5}), "rotate"), "an even K with rotate");
  ExpectRefused(Encode("cosine").In("theta", Normal({kH, kK + 1})), "no more angles");
  const CallBuilder grid = Encode("cosine").Set("width", kT);
  ExpectRefused(CallBuilder(grid).In("theta", Normal({kH, kK - 1})), "angles for a row");
  ExpectRefused(CallBuilder(grid).Put("initial_state_pos", HostTensor<int64_t>({kB}, {1, 2})),
                "initial_state_pos: given, expected only if");
  ExpectRefused(CallBuilder(grid).Offsets({0, kT}), "cu_seqlens: given, expected only if");
  ExpectRefused(CallBuilder(grid).Set("prefix", int64_t{1}), "as many tokens as the grid has");
  ExpectRefused(Encode("cosine").Put("initial_state_pos", HostTensor<int64_t>({kB}, {1, -2})),
                "given -2 at [1]");
  ExpectRefused(Encode("cosine").In("theta", Normal({2, kK})), "theta of every head, or of all");
  ExpectRefused(Encode("cosine").Set("base", 0.0), "base: given 0");
}

}  // namespace
}  // namespace attnd::testing
