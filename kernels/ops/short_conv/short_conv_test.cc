// What the short convolution promises.
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 41, kD = 19;

class ShortConvTest : public PropertyTest {
 protected:
  CallBuilder Conv(const Array& weight) const {
    return Call("short_conv").In("x", x_).In("weight", weight).Set("activation", "none");
  }
  // [B,D,W-1] as [B,W-1,D].
  static Array Transposed(const Array& state) {
    Array out({state.dim(0), state.dim(2), state.dim(1)});
    for (int64_t b = 0; b < state.dim(0); ++b) {
      for (int64_t d = 0; d < state.dim(1); ++d) {
        for (int64_t j = 0; j < state.dim(2); ++j) out(b, j, d) = state(b, d, j);
      }
    }
    return out;
  }

  const Array x_ = Normal({kB, kT, kD});
};
INSTANTIATE_PROPERTIES(ShortConvTest);

TEST_P(ShortConvTest, IsAConvolutionOfEveryChannel) {
  for (const int64_t taps : {1, 2, 4, 7}) {
    const Array weight = Normal({kD, taps}), bias = Normal({kD}), residual = Normal(x_.shape());
    const Array state = Normal({kB, kD, taps - 1});
    const Array past = Concatenate({Transposed(state), x_}, 1);
    Array linear(x_.shape()), silu(x_.shape());
    for (int64_t b = 0; b < kB; ++b) {
      for (int64_t t = 0; t < kT; ++t) {
        for (int64_t d = 0; d < kD; ++d) {
          double y = bias(d);
          for (int64_t j = 0; j < taps; ++j) y += weight(d, j) * past(b, t + j, d);
          linear(b, t, d) = y;
          silu(b, t, d) = y / (1 + std::exp(-y)) + residual(b, t, d);
        }
      }
    }
    const CallBuilder call = Conv(weight).In("bias", bias).In("initial_state", state);
    ExpectClose(Out(call), linear);
    ExpectClose(Out(CallBuilder(call).Set("activation", "silu").In("residual", residual)), silu);
  }
}

TEST_P(ShortConvTest, TheLastTapAloneIsTheIdentity) {
  Array weight({kD, 4});
  for (int64_t d = 0; d < kD; ++d) weight(d, 3) = 1;
  EXPECT_EQ(RelativeError(Out(Conv(weight)), x_), 0);
}

TEST_P(ShortConvTest, PiecesShorterThanTheTapsEqualTheWhole) {
  const CallBuilder call = Conv(Normal({kD, 6}));
  const Evaluation whole = Run(call);
  Evaluation last;
  for (int64_t at = 0; at < kT; ++at) {
    CallRequest piece = CutTokens(Find("short_conv"), call.request(), at, 1);
    if (at > 0) piece = WithStates(Find("short_conv"), piece, last);
    last = RunRequest(piece);
    ExpectClose(Array(Output(last, "o")), Array(Output(whole, "o")).Slice(1, at, 1));
  }
  EXPECT_TRUE(BitEqual(Output(last, "final_state"), Output(whole, "final_state")));
}

TEST_P(ShortConvTest, RefusesWeightsAndStatesThatDoNotFit) {
  ExpectRefused(Conv(Array({kD, 0})), "weight: given");
  ExpectRefused(Conv(Array({kD + 1, 4})), "weight: given [20,4]");
  ExpectRefused(Conv(Array({kD, 4})).In("initial_state", Array({kB, kD, 4})),
                "initial_state: given");
}

}  // namespace
}  // namespace attnd::testing
