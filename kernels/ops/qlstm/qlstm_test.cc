// What the quasi-LSTM promises.
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 57, kD = 9;

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

class QlstmTest : public PropertyTest {
 protected:
  CallBuilder Cell(const Array& f) { return Call("qlstm").In("x", x_).In("f", f).In("i", i_); }
  CallBuilder Cell() { return Cell(f_); }

  const Array x_ = Normal({kB, kT, kD}), f_ = Normal({kB, kT, kD}), i_ = Normal({kB, kT, kD}),
              o_ = Normal({kB, kT, kD}), gate_ = Normal({kB, kT, kD}), state_ = Normal({kB, kD});
};
INSTANTIATE_PROPERTIES(QlstmTest);

TEST_P(QlstmTest, IsItsLoop) {
  for (const bool tied : {false, true}) {
    Array o(x_.shape());
    for (int64_t b = 0; b < kB; ++b) {
      for (int64_t c = 0; c < kD; ++c) {
        double h = state_(b, c);
        for (int64_t t = 0; t < kT; ++t) {
          const double a = std::pow(Sigmoid(-f_(b, t, c)), 1.7);
          h = a * h + (tied ? 1 - a : Sigmoid(i_(b, t, c))) * std::tanh(x_(b, t, c));
          const double gate = gate_(b, t, c);
          o(b, t, c) = gate * (1 + std::erf(gate / std::sqrt(2.0))) / 2 * Sigmoid(o_(b, t, c)) *
                       std::tanh(h);
        }
      }
    }
    CallBuilder call = Call("qlstm").In("x", x_).In("f", f_).In("o", o_).In("gate", gate_);
    call.In("alpha", Array({1}, 1.7)).In("initial_state", state_).Set("tied", tied);
    if (!tied) call.In("i", i_);
    call.Set("activation", std::string("tanh")).Set("output_activation", std::string("tanh"));
    ExpectClose(Out(call), o);
  }
}

TEST_P(QlstmTest, ReversedGatesAreThoseOfTheNegatedLogit) {
  const Array one = Array({1}, 1).Reshape({});
  ExpectSame(Cell(f_ * -1).In("alpha", one).In("initial_state", state_),
             Cell().Set("reversed", false).In("initial_state", state_));
  ExpectSame(Cell().In("alpha", one), Cell());
}

TEST_P(QlstmTest, NegativeExponentsKeepEverything) {
  Array sums({kB, kT, kD});
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t c = 0; c < kD; ++c) {
      double h = 0;
      for (int64_t t = 0; t < kT; ++t) {
        h += Sigmoid(i_(b, t, c)) * x_(b, t, c);
        sums(b, t, c) = h;
      }
    }
  }
  ExpectClose(Out(Cell().In("alpha", Array({1}, -2.0))), sums);
}

TEST_P(QlstmTest, IsTheCoreOfHgrn) {
  const Array g = f_.Map([](double f) { return -std::log1p(std::exp(f)); });
  ExpectClose(
      Out(Cell().In("initial_state", state_)),
      Out(Call("hgrn").In("x", i_.Map(Sigmoid) * x_).In("g", g).In("initial_state", state_)));
}

TEST_P(QlstmTest, IsASelectiveStateSpaceOfOneState) {
  // S6 with A = -1: exp(-dt) of dt = softplus(f), here through ssd of one channel a head.
  const Array dt = f_.Map([](double f) { return std::log1p(std::exp(f)); });
  Array x = i_.Map(Sigmoid) * x_;
  for (size_t at = 0; at < x.values().size(); ++at) x.values()[at] /= dt.values()[at];
  const Array ones({kB, kT, 1, 1}, 1);
  ExpectClose(Out(Cell()), Out(Call("ssd")
                                   .In("x", x.Reshape({kB, kT, kD, 1}))
                                   .In("dt", dt)
                                   .In("a", Array({kD}, -1))
                                   .In("b", ones)
                                   .In("c", ones))
                               .Reshape({kB, kT, kD}));
}

TEST_P(QlstmTest, RefusesGatesThatDoNotBelong) {
  ExpectRefused(Cell().Set("reversed", false).In("alpha", Array({1}, 1)),
                "alpha: given, expected only if reversed");
  ExpectRefused(Call("qlstm").In("x", x_).In("f", f_), "i: missing");
  ExpectRefused(Cell().Set("tied", true), "i: given, expected only if");
}

}  // namespace
}  // namespace attnd::testing
