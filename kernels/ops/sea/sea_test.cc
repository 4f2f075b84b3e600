// What sparse attention under an estimated mask promises.
#include <cmath>
#include <string>
#include <vector>

#include "kernels/testing/dense_attention.h"
#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 13, kH = 2, kK = 6, kP = 8, kR = 9;

class SeaTest : public PropertyTest {
 protected:
  // Twice as loose as the operator's own bound: exponentials of norms amplify rounding.
  double loose() const { return exact() ? 1e-9 : 2e-4; }
  void ExpectNear(const Array& actual, const Array& expected) const {
    EXPECT_LE(RelativeError(actual, expected), loose());
  }

  CallBuilder Sea(bool causal) { return Sea(causal, kP); }
  CallBuilder Sea(bool causal, int64_t width) {
    const int64_t channels = (causal ? 2 : 4) * kH, rows = causal ? width / 2 : 2 * width;
    const int64_t side = causal ? 1 : 3;
    CallBuilder call = Call("sea").In("q", q_).In("k", k_).In("v", v_);
    call.In("projection", Normal({kR, kK}))
        .In("enc_w", Normal({3 * kK, 2 * kK}) * 0.2)
        .In("enc_b", Normal({2 * kK}))
        .In("enc_ln_w", Normal({2 * kK}))
        .In("enc_ln_b", Normal({2 * kK}))
        .In("row_w", Normal({2 * kK, rows}) * 0.3)
        .In("row_b", Normal({rows}))
        .In("scaler_w", Normal({2 * kK, 2}))
        .In("scaler_b", Normal({2}))
        .In("conv1_w", Normal({channels, channels, 3, 3}) * 0.2)
        .In("conv1_b", Normal({channels}))
        .In("conv2_w", Normal({channels, channels, 3, 3}) * 0.2)
        .In("conv2_b", Normal({channels}))
        .In("conv3_w", Normal({kH, channels, side, side}) * 0.3)
        .In("conv3_b", Normal({kH}))
        .Set("causal", causal)
        .Set("predictor_length", width)
        .Set("top_k", int64_t{2})
        .Set("return_mask", true);
    if (causal) {
      call.In("cnn_ln1_w", Normal({width / 4})).In("cnn_ln1_b", Normal({width / 4}));
      call.In("cnn_ln2_w", Normal({width})).In("cnn_ln2_b", Normal({width}));
      call.In("v_pos", Normal({kT + 3, kK}));
    }
    return call;
  }
  // The mix is the attention alone.
  static CallBuilder Open(CallBuilder call) {
    return call.In("scaler_w", Array({2 * kK, 2})).In("scaler_b", Array({2}, 40));
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kK});
};
INSTANTIATE_PROPERTIES(SeaTest);

TEST_P(SeaTest, KeepingEverythingIsDenseAttention) {
  for (const bool causal : {false, true}) {
    const CallBuilder call = Open(Sea(causal).Set("top_k", kT));
    ExpectClose(
        Out(call),
        Out(Call("softmax_attention").In("q", q_).In("k", k_).In("v", v_).Set("causal", causal)));
  }
}

TEST_P(SeaTest, OpenGatesGiveAttentionUnderTheReturnedMask) {
  for (const bool causal : {false, true}) {
    const Evaluation result = Run(Open(Sea(causal)));
    const Array o(Output(result, "o")), mask(Output(result, "token_mask"));
    int64_t kept = 0;
    for (const double pair : mask.values()) kept += pair != 0 ? 1 : 0;
    EXPECT_TRUE(kept > 0 && kept < kB * kH * kT * kT / 2) << kept;
    for (int64_t b = 0; b < kB; ++b) {
      for (int64_t h = 0; h < kH; ++h) {
        const auto one = [&](const Array& x) { return x.Slice(0, b, 1).Slice(2, h, 1); };
        const Array expected = DenseAttention(one(q_), one(k_), one(v_), [&](int64_t i, int64_t j) {
                                 return mask(b, h, i, j) != 0;
                               }).o;
        ExpectClose(one(o), expected);
      }
    }
  }
}

TEST_P(SeaTest, ShutGatesGiveTheAverage) {
  CallBuilder call = Sea(true).In("scaler_w", Array({2 * kK, 2})).In("scaler_b", Array({2}, -40));
  const Array o = Out(call);
  Array expected(v_.shape());
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t i = 0; i < kT; ++i) {
      for (int64_t h = 0; h < kH; ++h) {
        for (int64_t c = 0; c < kK; ++c) {
          for (int64_t j = 0; j <= i; ++j) expected(b, i, h, c) += v_(b, j, h, c) / (i + 1.0);
        }
      }
    }
  }
  ExpectClose(o, expected);
}

TEST_P(SeaTest, LaterTokensReachNothingEarlier) {
  const CallBuilder call = Sea(true);
  Array q = q_, k = k_, v = v_;
  for (int64_t t = 7; t < kT; ++t) {
    for (int64_t c = 0; c < kK; ++c) q(1, t, 0, c) = k(1, t, 1, c) = v(1, t, 0, c) = 3;
  }
  const CallBuilder changed = CallBuilder(call).In("q", q).In("k", k).In("v", v);
  ExpectClose(Out(changed).Slice(1, 0, 7), Out(call).Slice(1, 0, 7));
  ExpectClose(Out(changed, "estimate").Slice(2, 0, 7), Out(call, "estimate").Slice(2, 0, 7));
}

// A width of the sequence's length: key j is column j, and the mask is the choice itself.
TEST_P(SeaTest, AWidthOfTheLengthKeepsWhatItSays) {
  constexpr int64_t kWidth = 14;
  CallBuilder call = Sea(false, kWidth).Set("budget", std::string("query"));
  const auto tokens = [&](const Array& x) { return Concatenate({x, x.Slice(1, 0, 1)}, 1); };
  call.In("q", tokens(q_)).In("k", tokens(k_)).In("v", tokens(v_));
  const Evaluation result = Run(call);
  const Array estimate(Output(result, "estimate")), mask(Output(result, "token_mask"));
  for (int64_t i = 0; i < kWidth; ++i) {
    double least = 2, most = -1;
    int64_t kept = 0;
    for (int64_t h = 0; h < kH; ++h) {
      for (int64_t j = 0; j < kWidth; ++j) {
        const double x = estimate(1, h, i, j);
        if (mask(1, h, i, j) != 0) {
          least = std::min(least, x);
          ++kept;
        } else {
          most = std::max(most, x);
        }
      }
    }
    EXPECT_EQ(kept, kH * 2);
    EXPECT_GE(least, most);
  }
}

TEST_P(SeaTest, RowsOfTheEstimateSumToOne) {
  for (const bool causal : {false, true}) {
    const Array estimate = Out(Sea(causal), "estimate");
    for (size_t row = 0; row < estimate.values().size(); row += kP) {
      double sum = 0;
      for (size_t m = 0; m < kP; ++m) sum += estimate.values()[row + m];
      EXPECT_NEAR(sum, 1, 1e-5);
    }
  }
}

// The first unit vector is the position of a lone token: its value's context is known.
TEST_P(SeaTest, ALoneTokenSeesItself) {
  const auto one = [](const Array& x) { return x.Slice(1, 0, 1); };
  const CallBuilder call =
      Open(Sea(false)).In("q", one(q_)).In("k", one(k_)).In("v", one(v_)).Set("top_k", int64_t{8});
  ExpectClose(Out(call), one(v_));
  // With an encoder that reads the position alone: its bias and first row.
  Array enc({3 * kK, 2 * kK});
  const Array row = Normal({2 * kK});
  for (int64_t c = 0; c < 2 * kK; ++c) {
    for (int64_t i = 0; i < kK; ++i) enc(i, c) = i == 0 ? row(c) : 1000;
  }
  Array bias = row, none({3 * kK, 2 * kK});
  const CallBuilder by_weight = CallBuilder(call).In("enc_w", enc).In("enc_b", Array({2 * kK})),
                    by_bias = CallBuilder(call).In("enc_w", none).In("enc_b", bias);
  ExpectNear(Out(by_weight, "estimate"), Out(by_bias, "estimate"));
}

TEST_P(SeaTest, RefusesWeightsOfTheOtherForm) {
  ExpectRefused(Sea(false).In("v_pos", Normal({kT, kK})), "v_pos: given, expected only if causal");
  ExpectRefused(Sea(false).Set("causal", true), "cnn_ln1_w: missing");
  ExpectRefused(Sea(true).In("v_pos", Normal({kT - 1, kK})), "position values for every token");
  ExpectRefused(Sea(true).Set("budget", std::string("item")), "without causal");
  ExpectRefused(Sea(false).Set("top_k", int64_t{0}), "top_k: given 0");
  ExpectRefused(Sea(false).Set("predictor_length", int64_t{7}), "predictor_length");
  ExpectRefused(Sea(false).In("k", Normal({kB, kT - 1, kH, kK})), "k: given");
  ExpectRefused(Sea(false).In("v", Normal({kB, kT, kH, kK + 1})), "v: given");
  ExpectRefused(Sea(false).In("conv3_w", Normal({kH, 4 * kH, 1, 1})), "conv3 of 1 by 1");
}

}  // namespace
}  // namespace attnd::testing
