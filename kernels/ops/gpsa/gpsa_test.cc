// What gated positional self-attention promises.
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kHeight = 5, kWidth = 7, kT = kHeight * kWidth, kH = 4, kK = 8, kV = 6;

class GpsaTest : public PropertyTest {
 protected:
  CallBuilder Gpsa(const Array& q, const Array& k, const Array& v) const {
    return Call("gpsa")
        .In("q", q)
        .In("k", k)
        .In("v", v)
        .Set("height", kHeight)
        .Set("width", kWidth);
  }
  // The share of position, exactly: sigmoid(+-60) is 0 or 1 to double rounding.
  Array Gating(double logit) const { return Array({kH}, logit); }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV});
  const Array weight_ = Normal({kH, 3}) * 0.3;
};
INSTANTIATE_PROPERTIES(GpsaTest);

TEST_P(GpsaTest, AClosedGateIsSoftmaxAttention) {
  ExpectClose(Out(Gpsa(q_, k_, v_).In("gating", Gating(-60))),
              Out(Call("softmax_attention").In("q", q_).In("k", k_).In("v", v_)));
}

TEST_P(GpsaTest, AnOpenGateReadsNoContent) {
  ExpectClose(Out(Gpsa(q_, k_, v_).In("gating", Gating(60))),
              Out(Gpsa(Normal(q_.shape()), Normal(k_.shape()), v_).In("gating", Gating(60))));
}

TEST_P(GpsaTest, EqualsTheDenseTable) {
  const Array o = Out(Gpsa(q_, k_, v_).In("gating", Gating(60)).In("pos_weight", weight_));
  Array expected(v_.shape());
  for (int64_t h = 0; h < kH; ++h) {
    for (int64_t i = 0; i < kT; ++i) {
      std::vector<double> weights;
      double sum = 0;
      for (int64_t j = 0; j < kT; ++j) {
        const auto dx = static_cast<double>(j % kWidth - i % kWidth);
        const auto dy = static_cast<double>(j / kWidth - i / kWidth);
        weights.push_back(std::exp(weight_(h, 0) * dx + weight_(h, 1) * dy +
                                   weight_(h, 2) * (dx * dx + dy * dy)));
        sum += weights.back();
      }
      for (int64_t b = 0; b < kB; ++b) {
        for (int64_t j = 0; j < kT; ++j) {
          for (int64_t c = 0; c < kV; ++c)
            expected(b, i, h, c) += weights[j] / sum * v_(b, j, h, c);
        }
      }
    }
  }
  ExpectClose(o, expected);
}

TEST_P(GpsaTest, ABiasHasNoEffect) {
  const CallBuilder call = Gpsa(q_, k_, v_).In("pos_weight", weight_).Set("return_attn", true);
  ExpectSame(CallBuilder(call).In("pos_bias", Normal({kH})), call);
}

TEST_P(GpsaTest, TheMatrixIsWhatWasUsed) {
  const Evaluation ran = Run(Gpsa(q_, k_, v_)
                                 .In("pos_weight", weight_)
                                 .In("gating", Normal({kH}))
                                 .Set("return_attn", true)
                                 .Set("return_nonlocality", true));
  const Array attn(Output(ran, "attn"));
  Array o(v_.shape()), nonlocality({kB, kH});
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t h = 0; h < kH; ++h) {
      for (int64_t i = 0; i < kT; ++i) {
        double sum = 0;
        for (int64_t j = 0; j < kT; ++j) {
          sum += attn(b, h, i, j);
          const auto dx = static_cast<double>(j % kWidth - i % kWidth);
          const auto dy = static_cast<double>(j / kWidth - i / kWidth);
          nonlocality(b, h) += attn(b, h, i, j) * std::sqrt(dx * dx + dy * dy) / kT;
          for (int64_t c = 0; c < kV; ++c) o(b, i, h, c) += attn(b, h, i, j) * v_(b, j, h, c);
        }
        EXPECT_NEAR(sum, 1, 1e-5);
      }
    }
  }
  ExpectClose(Array(Output(ran, "o")), o);
  ExpectClose(Array(Output(ran, "nonlocality")), nonlocality);
}

TEST_P(GpsaTest, HeadsStartAsTapsOfAConvolution) {
  constexpr int64_t kTaps = 9;
  const Array q = Normal({kB, kT, kTaps, kK}), v = Normal({kB, kT, kTaps, kV});
  const Array o =
      Out(Gpsa(q, q, v).In("gating", Array({kTaps}, 60)).Set("locality_strength", 40.0));
  for (int64_t h = 0; h < kTaps; ++h) {
    const int64_t dy = h % 3 - 1, dx = h / 3 - 1;
    for (int64_t y = 1; y + 1 < kHeight; ++y) {
      for (int64_t x = 1; x + 1 < kWidth; ++x) {
        for (int64_t c = 0; c < kV; ++c) {
          EXPECT_NEAR(o(1, y * kWidth + x, h, c), v(1, (y + dy) * kWidth + x + dx, h, c), 1e-5);
        }
      }
    }
  }
}

TEST_P(GpsaTest, KnowsWhereTokensStand) {
  const std::vector<int64_t> order = Permutation(kT);
  const Array moved = Out(Gpsa(q_.Take(1, order), k_.Take(1, order), v_.Take(1, order)));
  EXPECT_GT(RelativeError(moved, Out(Gpsa(q_, k_, v_)).Take(1, order)), 1e-2);
}

TEST_P(GpsaTest, PositionFollowsTranslationsAwayFromTheBorder) {
  // A sharp position half reads near tokens alone.
  const CallBuilder sharp =
      Gpsa(q_, k_, v_).In("gating", Gating(60)).Set("locality_strength", 30.0);
  Array shifted(v_.shape());
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t y = 0; y < kHeight; ++y) {
      for (int64_t x = 1; x < kWidth; ++x) {
        for (int64_t h = 0; h < kH; ++h) {
          for (int64_t c = 0; c < kV; ++c) {
            shifted(b, y * kWidth + x, h, c) = v_(b, y * kWidth + x - 1, h, c);
          }
        }
      }
    }
  }
  const Array before = Out(sharp), after = Out(CallBuilder(sharp).In("v", shifted));
  for (int64_t y = 1; y + 1 < kHeight; ++y) {
    ExpectClose(after.Slice(1, y * kWidth + 3, 3), before.Slice(1, y * kWidth + 2, 3));
  }
}

TEST_P(GpsaTest, RefusesWhatDoesNotFit) {
  ExpectRefused(Gpsa(q_, k_, v_).Set("width", 6), "height * width");
  const Array three = Normal({kB, kT, 3, kK});
  ExpectRefused(Gpsa(three, three, three), "pos_weight: given nothing with H=3");
  ExpectRefused(Gpsa(q_, k_, v_).In("pos_weight", Array({kH, 2})), "pos_weight: given [4,2]");
  ExpectRefused(Gpsa(q_, k_, v_).In("gating", Array({kH + 1})), "gating: given [5]");
  ExpectRefused(Call("gpsa").In("q", q_).In("k", k_).In("v", v_), "height");
}

}  // namespace
}  // namespace attnd::testing
