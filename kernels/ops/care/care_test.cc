// What a CARE unit promises.
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kHeight = 5, kWidth = 7, kN = kHeight * kWidth, kG = 6, kMemory = 4,
                  kC = kMemory + 3 * kG;

class CareTest : public PropertyTest {
 protected:
  CallBuilder Unit(const Array& x) const {
    CallBuilder call = Call("care").In("x", x).Set("height", kHeight).Set("width", kWidth);
    call.In("conv3_weight", conv3_).In("conv3_bias", bias_);
    return call.In("conv7_weight", conv7_).In("conv7_bias", bias_);
  }
  CallBuilder Attention(const Array& x) const {
    return Unit(x).In("qk_weight", qk_).In("qk_bias", qk_bias_);
  }
  CallBuilder Convolutions(const Array& x) const {
    return Unit(x)
        .Set("mixer", "conv")
        .In("conv11v_weight", tall_)
        .In("conv11v_bias", Array({kG}))
        .In("conv11h_weight", wide_)
        .In("conv11h_bias", Array({kG}));
  }
  // Interactions with second layers of nothing, or none at the end.
  void Interact(CallBuilder& call, bool last = false) {
    for (const auto& [name, channels] : {std::pair("inter1", 3 * kG), std::pair("inter2", kC)}) {
      const auto in = [&, module = std::string(name)](const std::string& part, const Array& value) {
        call.In(module + part, value);
      };
      for (const char* part : {"_norm_weight", "_norm_bias", "_norm_mean"}) {
        in(part, Normal({channels}));
      }
      in("_norm_var", Uniform({channels}, 0.1, 2));
      in("_fc1_weight", Normal({2 * channels, channels}));
      in("_fc1_bias", Normal({2 * channels}));
      in("_conv_weight", Normal({2 * channels, 3, 3}));
      in("_conv_bias", Normal({2 * channels}));
      if (last && std::string(name) == "inter2") continue;
      in("_fc2_weight", Array({channels, 2 * channels}));
      in("_fc2_bias", Array({channels}));
    }
  }
  static Array Channels(const Array& o, int64_t index) {
    return o.Slice(2, kMemory + index * kG, kG);
  }

  const Array x_ = Normal({kB, kN, kC});
  const Array conv3_ = Normal({kG, 3, 3}), conv7_ = Normal({kG, 7, 7}), bias_ = Normal({kG}),
              qk_ = Normal({2 * kG, kG}), qk_bias_ = Normal({2 * kG}), tall_ = Normal({kG, 11, 1}),
              wide_ = Normal({kG, 1, 11});
};
INSTANTIATE_PROPERTIES(CareTest);

TEST_P(CareTest, MemoryPassesTheMixer) {
  for (const CallBuilder& call : {Attention(x_), Convolutions(x_)}) {
    EXPECT_EQ(Out(call).Slice(2, 0, kMemory).values(), x_.Slice(2, 0, kMemory).values());
  }
}

TEST_P(CareTest, InteractionsOfNothingLeaveTheMixer) {
  for (const CallBuilder& mixer : {Attention(x_), Convolutions(x_)}) {
    CallBuilder whole = mixer;
    Interact(whole);
    ExpectClose(Out(whole), Out(mixer));
    EXPECT_GT(RelativeError(Out(whole.In("inter2_fc2_weight", Normal({kC, 2 * kC}))), Out(mixer)),
              1e-2);
  }
}

TEST_P(CareTest, TheLastUnitEndsBeforeItsSecondLayer) {
  CallBuilder whole = Attention(x_), last = Attention(x_);
  Interact(last, /*last=*/true);
  last.Set("last", true);
  whole = CallBuilder(last).Set("last", false);
  // A second layer that reads the first C of the 2 C channels.
  Array first({kC, 2 * kC});
  for (int64_t c = 0; c < kC; ++c) first(c, c) = 1;
  whole.In("inter2_fc2_weight", first).In("inter2_fc2_bias", Array({kC}));
  const Array hidden = Out(last);
  EXPECT_EQ(hidden.shape(), (Dims{kB, kN, 2 * kC}));
  ExpectClose(Out(whole), hidden.Slice(2, 0, kC) + Out(Attention(x_)));
}

TEST_P(CareTest, OneHeadIsLinfusion) {
  const Array a = Channels(x_, 0);
  const auto projected = [&](int64_t row) {
    Array y({kB, kN, 1, kG});
    for (int64_t token = 0; token < kB * kN; ++token) {
      for (int64_t r = 0; r < kG; ++r) {
        y.values()[token * kG + r] =
            qk_bias_(row + r) + Dot(&qk_.values()[(row + r) * kG], &a.values()[token * kG], kG);
      }
    }
    return y;
  };
  const Array o = Out(Call("linfusion")
                          .In("q", projected(0))
                          .In("k", projected(kG))
                          .In("v", a.Reshape({kB, kN, 1, kG}))
                          .Set("eps", 1e-6));
  ExpectClose(Channels(Out(Attention(x_)), 0), o.Reshape({kB, kN, kG}));
  const Array halves = Channels(Out(Attention(x_).Set("head_dim", kG / 2)), 0);
  EXPECT_GT(RelativeError(halves, o.Reshape({kB, kN, kG})), 1e-3);
}

TEST_P(CareTest, GroupsAreDecoupled) {
  Array x = x_;
  for (int64_t i = 0; i < kN; ++i) x(0, i, kMemory + kG) += 3;
  for (const CallBuilder& call : {Attention(x_), Convolutions(x_)}) {
    const Array before = Out(call), after = Out(CallBuilder(call).In("x", x));
    EXPECT_EQ(Channels(after, 0).values(), Channels(before, 0).values());
    EXPECT_EQ(Channels(after, 2).values(), Channels(before, 2).values());
    EXPECT_GT(RelativeError(Channels(after, 1), Channels(before, 1)), 1e-2);
  }
}

TEST_P(CareTest, CentreTapsDouble) {
  Array tall({kG, 11, 1}), wide({kG, 1, 11});
  for (int64_t c = 0; c < kG; ++c) tall(c, 5, 0) = wide(c, 0, 5) = 1;
  ExpectClose(
      Channels(Out(Convolutions(x_).In("conv11v_weight", tall).In("conv11h_weight", wide)), 0),
      Channels(x_, 0) * 2);
}

TEST_P(CareTest, RefusesWhatDoesNotFit) {
  CallBuilder whole = Attention(x_);
  Interact(whole);
  ExpectRefused(Attention(Normal({kB, kN, 3 * kG - 1})), "three groups of channels");
  ExpectRefused(Attention(x_).Set("head_dim", 4), "head_dim that divides");
  ExpectRefused(Attention(x_).In("inter1_norm_weight", Array({3 * kG})),
                "inter1_norm_bias: missing");
  ExpectRefused(Attention(x_).In("inter2_conv_bias", Array({3})), "inter2_conv_bias: given");
  ExpectRefused(CallBuilder(whole).Set("last", true), "inter2_fc2_weight: given");
  CallBuilder cut = Attention(x_);
  Interact(cut, /*last=*/true);
  ExpectRefused(cut, "inter2_fc2_weight: missing");
  ExpectRefused(Attention(x_).Set("last", true), "last");
  ExpectRefused(Attention(x_).In("conv11v_bias", Array({kG})), "conv11v_bias: given");
  ExpectRefused(Convolutions(x_).In("qk_bias", Array({2 * kG})), "qk_bias: given");
  ExpectRefused(Attention(x_).Set("width", 6), "height * width");
  CallBuilder odd = whole;
  constexpr int64_t kRows = 3 * kG + 1;
  odd.In("inter1_fc1_weight", Array({kRows, 3 * kG})).In("inter1_fc1_bias", Array({kRows}));
  odd.In("inter1_conv_weight", Array({kRows, 3, 3})).In("inter1_conv_bias", Array({kRows}));
  ExpectRefused(odd.In("inter1_fc2_weight", Array({3 * kG, kRows})), "multiple of its columns");
}

}  // namespace
}  // namespace attnd::testing
