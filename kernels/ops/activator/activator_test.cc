// What a gated linear unit in the place of attention promises.
#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kN = 23, kD = 9, kF = 14;

class ActivatorTest : public PropertyTest {
 protected:
  CallBuilder Unit(const Array& x) const {
    CallBuilder call = Call("activator").In("x", x).In("w1", w1_).In("b1", b1_).In("w2", w2_);
    call.In("b2", b2_).In("w3", w3_).In("b3", b3_).In("norm_weight", norm_weight_);
    return call.In("norm_bias", norm_bias_);
  }
  CallBuilder Gated(const Array& x) {
    return Unit(x)
        .Set("block", "gated")
        .In("block_norm_weight", Normal({kD}))
        .In("block_norm_bias", Normal({kD}));
  }
  Array Y(const CallBuilder& call) const { return Out(call, "y"); }

  const Array x_ = Normal({kB, kN, kD});
  const Array w1_ = Normal({kF, kD}), b1_ = Normal({kF}), w2_ = Normal({kF, kD}),
              b2_ = Normal({kF}), w3_ = Normal({kD, kF}), b3_ = Normal({kD}),
              norm_weight_ = Normal({kF}), norm_bias_ = Normal({kF});
};
INSTANTIATE_PROPERTIES(ActivatorTest);

TEST_P(ActivatorTest, TokensDoNotMix) {
  const std::vector<int64_t> order = Permutation(kN);
  for (const CallBuilder& call : {Unit(x_), Gated(x_)}) {
    ExpectClose(Y(CallBuilder(call).In("x", x_.Take(1, order))), Y(call).Take(1, order));
    ExpectClose(Y(CallBuilder(call).In("x", x_.Slice(1, 4, 5))), Y(call).Slice(1, 4, 5));
  }
}

TEST_P(ActivatorTest, AGatedBlockOfNothingIsTheIdentity) {
  ExpectClose(Y(Gated(x_).In("w3", Array({kD, kF})).In("b3", Array({kD}))), x_);
}

TEST_P(ActivatorTest, TheNormHidesTheScaleOfTheSecondBranch) {
  const CallBuilder call = Unit(x_).Set("eps", 0.0);
  ExpectClose(Y(CallBuilder(call).In("w2", w2_ * 7).In("b2", b2_ * 7)), Y(call));
  const CallBuilder floored = Unit(x_).Set("eps", 1.0);
  EXPECT_GT(RelativeError(Y(CallBuilder(floored).In("w2", w2_ * 7).In("b2", b2_ * 7)), Y(floored)),
            1e-3);
}

TEST_P(ActivatorTest, ASecondHalfOfNothingLeavesTheGatedBlock) {
  const CallBuilder gated = Gated(x_);
  const CallBuilder full = CallBuilder(gated)
                               .Set("block", "full")
                               .In("ffn_w1", Normal({kF + 2, kD}))
                               .In("ffn_b1", Normal({kF + 2}))
                               .In("ffn_w2", Array({kD, kF + 2}))
                               .In("ffn_b2", Array({kD}));
  ExpectClose(Y(full), Y(gated));
  EXPECT_GT(RelativeError(Y(CallBuilder(full).In("ffn_w2", Normal({kD, kF + 2}))), Y(gated)), 1e-2);
}

TEST_P(ActivatorTest, TakesNoTokens) {
  EXPECT_EQ(Y(Unit(Array({kB, 0, kD}))).shape(), (Dims{kB, 0, kD}));
}

TEST_P(ActivatorTest, RefusesInputsOfOtherBlocks) {
  ExpectRefused(Unit(x_).In("block_norm_bias", Array({kD})), "block_norm_bias: given");
  ExpectRefused(Gated(x_).In("ffn_b2", Array({kD})), "ffn_b2: given");
  ExpectRefused(Unit(x_).Set("block", "gated"), "block_norm_weight: missing");
  ExpectRefused(Gated(x_).Set("block", "full"), "ffn_w1: missing");
  ExpectRefused(Unit(x_).Set("block", "whole"), "block: given 'whole'");
  const Array none({0, kD}), empty({0});
  ExpectRefused(Unit(x_)
                    .In("w1", none)
                    .In("b1", empty)
                    .In("w2", none)
                    .In("b2", empty)
                    .In("w3", Array({kD, 0}))
                    .In("norm_weight", empty)
                    .In("norm_bias", empty),
                "a size of 0 for F");
}

}  // namespace
}  // namespace attnd::testing
