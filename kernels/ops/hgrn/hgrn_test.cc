// What the gated recurrence per channel promises.
#include <cmath>
#include <limits>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 61, kD = 10;

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

class HgrnTest : public PropertyTest {
 protected:
  const Array i_ = Normal({kB, kT, kD}), f_ = Normal({kB, kT, kD});
};
INSTANTIATE_PROPERTIES(HgrnTest);

TEST_P(HgrnTest, TheRawFormIsTheCoreFormOfItsGates) {
  Array bound({kD});
  for (int64_t c = 0; c < kD; ++c) bound(c) = 0.9 * static_cast<double>(c) / kD;
  Array x({kB, kT, kD}), g({kB, kT, kD});
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t t = 0; t < kT; ++t) {
      for (int64_t c = 0; c < kD; ++c) {
        const double a = bound(c) + (1 - bound(c)) * Sigmoid(f_(b, t, c));
        g(b, t, c) = std::log(a);
        x(b, t, c) = i_(b, t, c) * Sigmoid(i_(b, t, c)) * (1 - a);
      }
    }
  }
  const Array state = Normal({kB, kD});
  const CallBuilder raw = Call("hgrn").In("i", i_).In("f", f_).In("lower_bound", bound);
  const CallBuilder core = Call("hgrn").In("x", x).In("g", g);
  ExpectClose(Out(CallBuilder(raw).In("initial_state", state)),
              Out(CallBuilder(core).In("initial_state", state)));
}

TEST_P(HgrnTest, WithoutDecayItSums) {
  const CallBuilder call = Call("hgrn").In("x", i_).In("g", Array({kB, kT, kD}));
  Array sums = i_;
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t t = 1; t < kT; ++t) {
      for (int64_t c = 0; c < kD; ++c) sums(b, t, c) += sums(b, t - 1, c);
    }
  }
  ExpectClose(Out(call), sums);
}

TEST_P(HgrnTest, StaysWithinItsInputs) {
  const Array o = Out(Call("hgrn").In("i", i_).In("f", f_));
  double most = 0;
  for (const double x : i_.values()) most = std::max(most, std::abs(x * Sigmoid(x)));
  for (const double h : o.values()) EXPECT_LE(std::abs(h), most * (1 + 1e-5));
}

TEST_P(HgrnTest, AHighBoundFollowsSlowly) {
  const auto reach = [this](double bound) {
    const Array bounds({kD}, bound);
    const Array o = Out(Call("hgrn").In("i", i_).In("f", f_).In("lower_bound", bounds));
    double sum = 0;
    for (const double h : o.values()) sum += std::abs(h);
    return sum;
  };
  EXPECT_LT(reach(0.999), 0.1 * reach(0));
}

TEST_P(HgrnTest, IsGatedLinearAttentionWithOneKeyChannel) {
  const Array g = f_.Map([](double x) { return -std::abs(x); });
  const Array ones({kB, kT, kD, 1}, 1);
  ExpectClose(Out(Call("hgrn").In("x", i_).In("g", g)),
              Out(Call("gla")
                      .In("q", ones)
                      .In("k", ones)
                      .In("v", i_.Reshape({kB, kT, kD, 1}))
                      .In("g", g.Reshape({kB, kT, kD, 1}))
                      .Set("scale", 1.0))
                  .Reshape({kB, kT, kD}));
}

TEST_P(HgrnTest, RefusesHalfAForm) {
  ExpectRefused(Call("hgrn").In("x", i_), "x and g together");
  ExpectRefused(Call("hgrn").In("i", i_).In("f", f_).In("x", i_).In("g", f_), "either x and g");
  ExpectRefused(Call("hgrn").In("i", i_).In("f", f_).In("lower_bound", Array({kD}, 1)), "[0,1)");
  ExpectRefused(Call("hgrn").In("x", i_).In("g", f_).In("lower_bound", Array({kD}, 0.5)),
                "lower_bound");
}

}  // namespace
}  // namespace attnd::testing
