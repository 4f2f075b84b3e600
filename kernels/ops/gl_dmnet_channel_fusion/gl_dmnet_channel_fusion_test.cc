// What the fusion over channels promises.
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kHeight = 4, kWidth = 5, kN = kHeight * kWidth, kC = 6, kR = 3;

class GlDmnetChannelFusionTest : public PropertyTest {
 protected:
  // `mix` 0 makes h the constant relu(mix_shift).
  CallBuilder Fusion(const Array& rgb, const Array& depth, const Array& mix) const {
    CallBuilder call = Call("gl_dmnet_channel_fusion").In("f_rgb", rgb).In("f_depth", depth);
    call.In("fc1_weight", fc1_).In("fc2_weight", fc2_).In("mix_weight", mix);
    call.In("mix_scale", scale_).In("mix_shift", shift_);
    return call.Set("height", kHeight).Set("width", kWidth);
  }
  static constexpr const char* kOutputs[] = {"c_rgb", "c_depth", "c_fused"};

  const Array rgb_ = Normal({kB, kN, kC}), depth_ = Normal({kB, kN, kC});
  const Array fc1_ = Normal({kR, 2 * kC}), fc2_ = Normal({2 * kC, kR}), mix_ = Normal({kC, 2 * kC}),
              scale_ = Normal({kC}),
              shift_ = Normal({kC}).Map([](double x) { return std::abs(x) + 0.1; });
};
INSTANTIATE_PROPERTIES(GlDmnetChannelFusionTest);

TEST_P(GlDmnetChannelFusionTest, FollowsPermutationsOfTheTokens) {
  const std::vector<int64_t> order = Permutation(kN);
  for (const char* gate : {"none", "sigmoid"}) {
    const Evaluation plain = Run(Fusion(rgb_, depth_, mix_).Set("gate", gate));
    const Evaluation moved =
        Run(Fusion(rgb_.Take(1, order), depth_.Take(1, order), mix_).Set("gate", gate));
    for (const char* name : kOutputs) {
      ExpectClose(Array(Output(moved, name)), Array(Output(plain, name)).Take(1, order));
    }
  }
}

TEST_P(GlDmnetChannelFusionTest, ConstantFusionGivesTheWrittenSum) {
  Array expected({kB, kN, kC});
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t x = 0; x < kC; ++x) {
      double sum = 0;
      for (int64_t n = 0; n < kN; ++n) sum += rgb_(b, n, x);
      for (int64_t y = 0; y < kC; ++y) {
        const double gram = sum * shift_(y);
        const double weight = gram < 0 ? -std::sqrt(-gram) : std::sqrt(gram);
        for (int64_t n = 0; n < kN; ++n) expected(b, n, x) += weight * rgb_(b, n, y);
      }
    }
  }
  ExpectClose(Out(Fusion(rgb_, depth_, Array({kC, 2 * kC})), "c_rgb"), expected.Unit());
}

TEST_P(GlDmnetChannelFusionTest, NormsAreOne) {
  for (const bool channel : {true, false}) {
    const Evaluation ran = Run(Fusion(rgb_, depth_, mix_)
                                   .In("mix_shift", shift_ * 50)
                                   .Set("normalize_over", channel ? "channel" : "position"));
    for (const char* name : kOutputs) {
      const Array p(Output(ran, name));
      Array squares(channel ? Dims{kB, kN} : Dims{kB, kC});
      for (int64_t b = 0; b < kB; ++b) {
        for (int64_t n = 0; n < kN; ++n) {
          for (int64_t c = 0; c < kC; ++c) {
            squares(b, channel ? n : c) += p(b, n, c) * p(b, n, c);
          }
        }
      }
      for (const double norm : squares.values()) EXPECT_NEAR(norm, 1, 1e-5) << name;
    }
  }
}

TEST_P(GlDmnetChannelFusionTest, ALouderModalityKeepsItsDirection) {
  const Array constant({kC, 2 * kC});  // h does not depend on f_rgb.
  ExpectClose(Out(Fusion(rgb_ * 3, depth_, constant), "c_rgb"),
              Out(Fusion(rgb_, depth_, constant), "c_rgb"));
}

TEST_P(GlDmnetChannelFusionTest, AbsentBiasesAreZero) {
  const CallBuilder call = Fusion(rgb_, depth_, mix_);
  const Array with =
      Out(CallBuilder(call).In("fc1_bias", Array({kR})).In("fc2_bias", Array({2 * kC})), "c_fused");
  ExpectClose(with, Out(call, "c_fused"));
  EXPECT_GT(
      RelativeError(Out(CallBuilder(call).In("fc2_bias", Array({2 * kC}, 1)), "c_fused"), with),
      1e-4);
}

TEST_P(GlDmnetChannelFusionTest, TakesOneToken) {
  const Array rgb = rgb_.Slice(1, 0, 1), depth = depth_.Slice(1, 0, 1);
  const Array o =
      Out(Fusion(rgb, depth, Array({kC, 2 * kC})).Set("height", 1).Set("width", 1), "c_depth");
  EXPECT_EQ(o.shape(), (Dims{kB, 1, kC}));
}

TEST_P(GlDmnetChannelFusionTest, RefusesWhatDoesNotFit) {
  const CallBuilder call = Fusion(rgb_, depth_, mix_);
  ExpectRefused(CallBuilder(call).Set("width", 4), "height * width");
  ExpectRefused(CallBuilder(call).In("out1_weight", Array({kC, 3 * kC})), "out1_scale: missing");
  ExpectRefused(CallBuilder(call).In("out3_shift", Array({kC})), "out3_shift: given");
  ExpectRefused(CallBuilder(call).Set("gate", "relu"), "gate: given 'relu'");
  ExpectRefused(CallBuilder(call).Set("normalize_over", "batch"), "normalize_over: given 'batch'");
  ExpectRefused(CallBuilder(call).Set("moment_power", std::nan("")), "moment_power");
  ExpectRefused(CallBuilder(call).In("fc2_weight", Array({2 * kC, kR + 1})), "fc2_weight");
  ExpectRefused(CallBuilder(call).In("fc1_bias", Array({kR + 1})), "fc1_bias: given [4]");
}

}  // namespace
}  // namespace attnd::testing
