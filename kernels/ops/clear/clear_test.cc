// What attention within discs promises.
#include <cmath>

#include "kernels/testing/dense_attention.h"
#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kText = 5, kHeight = 6, kWidth = 8, kT = kText + kHeight * kWidth, kH = 2,
                  kK = 8, kV = 6;

class ClearTest : public PropertyTest {
 protected:
  CallBuilder Clear(double radius) const {
    return Call("clear")
        .In("q", q_)
        .In("k", k_)
        .In("v", v_)
        .Set("height", kHeight)
        .Set("width", kWidth)
        .Set("text_length", kText)
        .Set("radius", radius);
  }
  // An image alone.
  CallBuilder Image(int64_t height, int64_t width, double radius) {
    const Array x = Normal({1, height * width, 1, kK});
    CallBuilder call = Call("clear").In("q", x).In("k", Normal(x.shape())).In("v", x);
    return call.Set("height", height).Set("width", width).Set("radius", radius);
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, 1, kK}),
              v_ = Normal({kB, kT, 1, kV});
};
INSTANTIATE_PROPERTIES(ClearTest);

TEST_P(ClearTest, ADiscOverTheImageIsSoftmaxAttention) {
  const CallBuilder softmax = Call("softmax_attention").In("q", q_).In("k", k_).In("v", v_);
  for (const double radius : {9.0, 1e300}) {
    ExpectSame(Clear(radius).Set("return_lse", true), CallBuilder(softmax).Set("return_lse", true));
  }
}

TEST_P(ClearTest, EqualsThePairsOfTheDisc) {
  for (const double radius : {0.5, 2.0, 2.5, 3.7}) {
    const auto allowed = [radius](int64_t i, int64_t j) {
      if (i < kText || j < kText) return true;
      const int64_t dy = (i - kText) / kWidth - (j - kText) / kWidth;
      const int64_t dx = (i - kText) % kWidth - (j - kText) % kWidth;
      return static_cast<double>(dy * dy + dx * dx) < radius * radius;
    };
    const Attended expected = DenseAttention(q_, k_, v_, allowed);
    const Evaluation ran = Run(Clear(radius).Set("return_lse", true));
    ExpectClose(Array(Output(ran, "o")), expected.o);
    ExpectClose(Array(Output(ran, "lse")), expected.lse);
  }
}

TEST_P(ClearTest, ADiscOfOneTokenGivesTheValues) {
  const CallBuilder call = Image(7, 9, 1.0);
  ExpectClose(Out(call), Array(*call.request().inputs.Find("v")));
}

TEST_P(ClearTest, CountsTheTokensInside) {
  // Equal keys: the log-sum is the log of their number.
  const auto inside = [this](int64_t height, int64_t width, double radius, int64_t y, int64_t x) {
    const Array equal({1, height * width, 1, kK});
    const CallBuilder call =
        Image(height, width, radius).In("q", equal).In("k", equal).Set("return_lse", true);
    return std::exp(Out(call, "lse")(0, y * width + x, 0));
  };
  EXPECT_NEAR(inside(9, 9, 2, 4, 4), 9, 1e-3);
  EXPECT_NEAR(inside(9, 9, 2, 0, 4), 6, 1e-3);
  EXPECT_NEAR(inside(9, 9, 2, 8, 8), 4, 1e-3);
  EXPECT_NEAR(inside(40, 37, 16, 19, 18), 793, 1e-2);
}

TEST_P(ClearTest, TextReadsAllThatIsNotPooled) {
  const auto text = [](const Array& o) { return o.Slice(1, 0, kText); };
  const Array expected = text(Out(Call("softmax_attention").In("q", q_).In("k", k_).In("v", v_)));
  ExpectClose(text(Out(Clear(1.0))), expected);
  ExpectClose(text(Out(Clear(3.0).Set("down_factor", 2))), expected);
  ExpectClose(text(Out(Clear(3.0).Set("down_factor", 2).In("spatial_weight", Normal({2, 2})))),
              expected);
}

TEST_P(ClearTest, FollowsAFlippedImage) {
  std::vector<int64_t> flipped;
  for (int64_t i = 0; i < kT; ++i) {
    const int64_t row = (i - kText) / kWidth, column = (i - kText) % kWidth;
    flipped.push_back(i < kText ? i : kText + row * kWidth + kWidth - 1 - column);
  }
  const Array o = Out(Clear(2.5)
                          .In("q", q_.Take(1, flipped))
                          .In("k", k_.Take(1, flipped))
                          .In("v", v_.Take(1, flipped)));
  ExpectClose(o, Out(Clear(2.5)).Take(1, flipped));
}

TEST_P(ClearTest, PooledTokensOfNothingTakeWeightAlone) {
  const Evaluation plain = Run(Clear(2.5).Set("return_lse", true));
  const Array pooled = Out(Clear(2.5).Set("down_factor", 2).In("spatial_weight", Array({2, 2})));
  Array expected(Output(plain, "o"));
  const Array lse(Output(plain, "lse"));
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t i = kText; i < kT; ++i) {
      for (int64_t h = 0; h < kH; ++h) {
        const double z = std::exp(lse(b, i, h));
        for (int64_t c = 0; c < kV; ++c) expected(b, i, h, c) *= z / (z + kHeight * kWidth / 4.0);
      }
    }
  }
  ExpectClose(pooled, expected);
}

TEST_P(ClearTest, PoolsEqualWeightsByDefault) {
  const CallBuilder pooled = Clear(2.5).Set("down_factor", 2);
  ExpectClose(Out(CallBuilder(pooled).In("spatial_weight", Array({2, 2}, 0.25))), Out(pooled));
}

TEST_P(ClearTest, RefusesWhatDoesNotFit) {
  ExpectRefused(Clear(2).Set("text_length", kText - 1), "text_length + height * width");
  ExpectRefused(Clear(0), "radius: given 0");
  ExpectRefused(Clear(-1), "radius: given -1");
  ExpectRefused(Clear(std::numeric_limits<double>::infinity()), "radius");
  ExpectRefused(Clear(2).Set("down_factor", 0), "down_factor: given 0");
  ExpectRefused(Clear(2).Set("down_factor", 4), "down_factor that divides");
  ExpectRefused(Clear(2).In("spatial_weight", Array({1, 1})), "spatial_weight: given");
  ExpectRefused(Clear(2).Set("down_factor", 2).In("spatial_weight", Array({2, 3})),
                "spatial_weight: given [2,3]");
  ExpectRefused(Clear(2).In("v", Normal({kB, kT, kH, kV})), "as many value heads as key heads");
}

}  // namespace
}  // namespace attnd::testing
