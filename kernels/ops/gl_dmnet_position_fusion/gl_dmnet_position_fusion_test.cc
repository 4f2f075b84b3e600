// What the fusion over positions promises.
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kHeight = 4, kWidth = 5, kN = kHeight * kWidth, kC = 6;

class GlDmnetPositionFusionTest : public PropertyTest {
 protected:
  // `mix` 0 makes s the constant relu(mix_shift).
  CallBuilder Fusion(const Array& rgb, const Array& depth, const Array& mix) const {
    CallBuilder call = Call("gl_dmnet_position_fusion").In("f_rgb", rgb).In("f_depth", depth);
    call.In("sp_weight", sp_weight_)
        .In("sp_scale", Array({1}, 0.3))
        .In("sp_shift", Array({1}, 0.2));
    call.In("mix_weight", mix).In("mix_scale", scale_).In("mix_shift", shift_);
    return call.Set("height", kHeight).Set("width", kWidth);
  }
  CallBuilder WithTail(CallBuilder call) {
    call.In("out1_weight", Normal({kC, 3 * kC})).In("out3_weight", Normal({kC, kC, 3, 3}));
    for (const char* name : {"out1_scale", "out1_shift", "out3_scale", "out3_shift"}) {
      call.In(name, Normal({kC}));
    }
    return call;
  }
  // sum_i M(s.f_j) f_i with one s for all i, not normalised.
  static Array Collected(const Array& f, const Array& s, const std::function<double(double)>& m) {
    Array p({kB, kN, kC});
    for (int64_t b = 0; b < kB; ++b) {
      for (int64_t j = 0; j < kN; ++j) {
        const double weight = m(Dot(&s.values()[0], &f.values()[(b * kN + j) * kC], kC));
        for (int64_t i = 0; i < kN; ++i) {
          for (int64_t c = 0; c < kC; ++c) p(b, j, c) += weight * f(b, i, c);
        }
      }
    }
    return p;
  }

  const Array rgb_ = Normal({kB, kN, kC}), depth_ = Normal({kB, kN, kC});
  const Array sp_weight_ = Normal({2, 7, 7}), mix_ = Normal({kC, kC}), scale_ = Normal({kC}),
              shift_ = Normal({kC}).Map([](double x) { return std::abs(x) + 0.1; });
};
INSTANTIATE_PROPERTIES(GlDmnetPositionFusionTest);

TEST_P(GlDmnetPositionFusionTest, ExchangedModalitiesExchangeTheirOutputs) {
  const Evaluation there = Run(Fusion(rgb_, depth_, mix_)), back = Run(Fusion(depth_, rgb_, mix_));
  const auto out = [](const Evaluation& ran, const char* name) { return Array(Output(ran, name)); };
  ExpectClose(out(back, "p_depth"), out(there, "p_rgb"));
  ExpectClose(out(back, "p_rgb"), out(there, "p_depth"));
  ExpectClose(out(back, "p_fused"), out(there, "p_fused"));
}

TEST_P(GlDmnetPositionFusionTest, ConstantKeysGiveTheWrittenSum) {
  const std::pair<double, double (*)(double)> powers[] = {
      {0.5, [](double x) { return x < 0 ? -std::sqrt(-x) : std::sqrt(x); }},
      {2.0, [](double x) { return x < 0 ? -x * x : x * x; }},
      {1.0, [](double x) { return x; }}};
  for (const auto& [power, m] : powers) {
    const CallBuilder call = Fusion(rgb_, depth_, Array({kC, kC})).Set("moment_power", power);
    ExpectClose(Out(call, "p_rgb"), Collected(rgb_, shift_, m).Unit());
  }
}

TEST_P(GlDmnetPositionFusionTest, WithoutAPowerItIsTheLimitOfPowers) {
  // Pair by pair and by sums over all positions.
  const CallBuilder call = Fusion(rgb_, depth_, mix_);
  const Evaluation linear = Run(CallBuilder(call).Set("moment_power", 1.0));
  const Evaluation pairs =
      Run(CallBuilder(call).Set("moment_power", 1.0 + (exact() ? 1e-13 : 1e-8)));
  for (const char* name : {"p_rgb", "p_depth", "p_fused"}) {
    ExpectClose(Array(Output(linear, name)), Array(Output(pairs, name)));
  }
}

TEST_P(GlDmnetPositionFusionTest, NormsAreOne) {
  for (const bool channel : {true, false}) {
    const Evaluation ran = Run(Fusion(rgb_, depth_, mix_)
                                   .In("mix_shift", shift_ * 50)
                                   .Set("normalize_over", channel ? "channel" : "position"));
    for (const char* name : {"p_rgb", "p_depth", "p_fused"}) {
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

TEST_P(GlDmnetPositionFusionTest, ALouderModalityKeepsItsDirection) {
  const Array constant({kC, kC});  // s does not depend on f_rgb.
  ExpectClose(Out(Fusion(rgb_ * 3, depth_, constant), "p_rgb"),
              Out(Fusion(rgb_, depth_, constant), "p_rgb"));
}

TEST_P(GlDmnetPositionFusionTest, TheGateWeighsPositions) {
  const Array relu = Out(Fusion(rgb_, depth_, mix_), "p_fused");
  EXPECT_GT(RelativeError(Out(Fusion(rgb_, depth_, mix_).Set("gate", "sigmoid"), "p_fused"), relu),
            1e-3);
}

TEST_P(GlDmnetPositionFusionTest, TheTailReadsTheThreeOutputs) {
  const CallBuilder plain = Fusion(rgb_, depth_, mix_);
  // out1 copies p_fused, the centre tap hands it on.
  Array copy({kC, 3 * kC}), tap({kC, kC, 3, 3});
  for (int64_t c = 0; c < kC; ++c) copy(c, 2 * kC + c) = tap(c, c, 1, 1) = 1;
  const CallBuilder whole = WithTail(plain)
                                .In("out1_weight", copy)
                                .In("out1_scale", Array({kC}, 2))
                                .In("out1_shift", Array({kC}))
                                .In("out3_weight", tap)
                                .In("out3_scale", Array({kC}, 3))
                                .In("out3_shift", Array({kC}, -0.1));
  ExpectClose(Out(whole), Out(plain, "p_fused").Map([](double x) {
    return std::max(0.0, 6 * std::max(0.0, x) - 0.1);
  }));
}

TEST_P(GlDmnetPositionFusionTest, RefusesWhatDoesNotFit) {
  const CallBuilder call = Fusion(rgb_, depth_, mix_);
  ExpectRefused(CallBuilder(call).Set("width", 4), "height * width");
  ExpectRefused(CallBuilder(call).In("out1_weight", Array({kC, 3 * kC})), "out1_scale: missing");
  ExpectRefused(CallBuilder(call).In("out3_shift", Array({kC})), "out3_shift: given");
  ExpectRefused(CallBuilder(call).Set("gate", "tanh"), "gate: given 'tanh'");
  ExpectRefused(CallBuilder(call).Set("normalize_over", "batch"), "normalize_over: given 'batch'");
  ExpectRefused(CallBuilder(call).Set("moment_power", std::nan("")), "moment_power");
}

}  // namespace
}  // namespace attnd::testing
