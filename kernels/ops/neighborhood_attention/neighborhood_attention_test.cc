// What neighborhood attention promises: borders, dilation, strides, causal axes and symmetries.
#include <algorithm>
#include <cmath>

#include "kernels/testing/dense_attention.h"
#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kH = 2, kK = 8, kV = 6;

class NeighborhoodTest : public PropertyTest {
 protected:
  using Ints = std::vector<int64_t>;
  struct Inputs {
    Array q, k, v;
  };
  Inputs Draw(int64_t tokens) {
    return {Normal({kB, tokens, kH, kK}), Normal({kB, tokens, kH, kK}),
            Normal({kB, tokens, kH, kV})};
  }
  CallBuilder Around(const Inputs& in, const Ints& window) const {
    return Call("neighborhood_attention")
        .In("q", in.q)
        .In("k", in.k)
        .In("v", in.v)
        .Set("window", window);
  }
  CallBuilder Image(const Inputs& in, int64_t height, int64_t width, const Ints& window) const {
    return Around(in, window).Set("height", height).Set("width", width);
  }
  // That each query of a line reads exactly the keys [first(x), last(x)].
  void ExpectReads(const CallBuilder& call, const Inputs& in,
                   const std::function<std::pair<int64_t, int64_t>(int64_t)>& range) const {
    const auto allowed = [&](int64_t i, int64_t j) {
      const auto [first, last] = range(i);
      return first <= j && j <= last;
    };
    ExpectClose(Out(call), DenseAttention(in.q, in.k, in.v, allowed).o);
  }
  static Inputs Take(const Inputs& in, const Ints& order) {
    return {in.q.Take(1, order), in.k.Take(1, order), in.v.Take(1, order)};
  }
};
INSTANTIATE_PROPERTIES(NeighborhoodTest);

TEST_P(NeighborhoodTest, AWindowOfEverythingIsSoftmaxAttention) {
  const Inputs in = Draw(60);
  const CallBuilder softmax = Call("softmax_attention").In("q", in.q).In("k", in.k).In("v", in.v);
  ExpectClose(Out(Around(in, {60})), Out(softmax));
  ExpectClose(Out(Image(in, 5, 12, {5, 12})), Out(softmax));
  ExpectClose(Out(Image(in, 5, 4, {3, 5, 4}).Set("depth", 3)), Out(softmax));
  ExpectClose(Out(Around(in, {60}).Set("causal", std::vector<bool>{true})),
              Out(CallBuilder(softmax).Set("causal", true)));
}

TEST_P(NeighborhoodTest, TokensOutsideOfAWindowMayHoldNan) {
  constexpr int64_t kHeight = 9, kWidth = 11, kAt = 4 * kWidth + 5;
  Inputs in = Draw(kHeight * kWidth);
  const Array clean = Out(Image(in, kHeight, kWidth, {3, 5}));
  for (int64_t c = 0; c < kV; ++c) in.v(0, kAt, 0, c) = std::nan("");
  const Array o = Out(Image(in, kHeight, kWidth, {3, 5}));
  for (int64_t i = 0; i < kHeight * kWidth; ++i) {
    const bool sees = std::abs(i / kWidth - 4) <= 1 && std::abs(i % kWidth - 5) <= 2;
    if (sees) {
      EXPECT_TRUE(std::isnan(o(0, i, 0, 0))) << i;
    } else {
      ExpectClose(o.Slice(1, i, 1), clean.Slice(1, i, 1));
    }
  }
}

TEST_P(NeighborhoodTest, AWindowOfOneReturnsTheValues) {
  const Inputs in = Draw(35);
  ExpectClose(Out(Image(in, 5, 7, {1, 1})), in.v);
}

TEST_P(NeighborhoodTest, WindowsAreShiftedInwardsAtTheBorder) {
  const Inputs in = Draw(10);
  ExpectReads(Around(in, {5}), in, [](int64_t x) {
    const int64_t start = std::clamp<int64_t>(x - 2, 0, 5);
    return std::pair{start, start + 4};
  });
  // An even window has one more key on the left.
  ExpectReads(Around(in, {4}), in, [](int64_t x) {
    const int64_t start = std::clamp<int64_t>(x - 2, 0, 6);
    return std::pair{start, start + 3};
  });
}

TEST_P(NeighborhoodTest, DilationIsAttentionInsideEachSubGrid) {
  const Inputs in = Draw(9 * 11);
  const Array whole = Out(Image(in, 9, 11, {3, 3}).Set("dilation", Ints{2, 3}));
  for (int64_t a = 0; a < 2; ++a) {
    for (int64_t b = 0; b < 3; ++b) {
      Ints tokens;
      const int64_t height = (9 - a + 1) / 2, width = (11 - b + 2) / 3;
      for (int64_t y = a; y < 9; y += 2) {
        for (int64_t x = b; x < 11; x += 3) tokens.push_back(y * 11 + x);
      }
      ExpectClose(whole.Take(1, tokens), Out(Image(Take(in, tokens), height, width, {3, 3})));
    }
  }
}

TEST_P(NeighborhoodTest, AStrideOfTheWindowIsBlockedAttention) {
  const Inputs in = Draw(24);
  ExpectReads(Around(in, {6}).Set("stride", Ints{6}), in, [](int64_t x) {
    return std::pair{x / 6 * 6, x / 6 * 6 + 5};
  });
}

TEST_P(NeighborhoodTest, CausalStridesCountFromTheLeader) {
  const Inputs in = Draw(20);
  // The leader is the last of its group of three; its window of six ends with it.
  ExpectReads(Around(in, {6}).Set("stride", Ints{3}).Set("causal", std::vector<bool>{true}), in,
              [](int64_t x) {
                const int64_t leader = std::min<int64_t>(x / 3 * 3 + 2, 19);
                return std::pair{std::max<int64_t>(leader - 5, 0), x};
              });
}

TEST_P(NeighborhoodTest, CausalAndOtherAxesMix) {
  const Inputs in = Draw(6 * 8);
  const auto allowed = [](int64_t i, int64_t j) {
    const int64_t y = i / 8, x = i % 8, start = std::clamp<int64_t>(x - 1, 0, 5);
    const int64_t other_y = j / 8, other_x = j % 8;
    return other_y <= y && other_y > y - 4 && other_x >= start && other_x < start + 3;
  };
  ExpectClose(Out(Image(in, 6, 8, {4, 3}).Set("causal", std::vector<bool>{true, false})),
              DenseAttention(in.q, in.k, in.v, allowed).o);
}

TEST_P(NeighborhoodTest, MirroringTheLineMirrorsTheOutput) {
  const Inputs in = Draw(31);
  Ints mirrored;
  for (int64_t x = 30; x >= 0; --x) mirrored.push_back(x);
  ExpectClose(Out(Around(Take(in, mirrored), {7})), Out(Around(in, {7})).Take(1, mirrored));
}

TEST_P(NeighborhoodTest, ExchangingTheAxesTransposesTheOutput) {
  const Inputs in = Draw(7 * 9);
  Ints transposed;
  for (int64_t x = 0; x < 9; ++x) {
    for (int64_t y = 0; y < 7; ++y) transposed.push_back(y * 9 + x);
  }
  const auto with = [&](const Inputs& inputs, int64_t height, int64_t width, const Ints& window,
                        const Ints& stride) {
    return Out(Image(inputs, height, width, window).Set("stride", stride));
  };
  ExpectClose(with(Take(in, transposed), 9, 7, {5, 3}, {2, 1}),
              with(in, 7, 9, {3, 5}, {1, 2}).Take(1, transposed));
}

TEST_P(NeighborhoodTest, ExtraKeysMergeThroughTheLogSum) {
  const Inputs in = Draw(5 * 7);
  const Array k = Normal({kB, 3, kH, kK}), v = Normal({kB, 3, kH, kV});
  const Evaluation grid = Run(Image(in, 5, 7, {3, 3}).Set("return_lse", true));
  const Attended merged = Merge({Array(Output(grid, "o")), Array(Output(grid, "lse"))},
                                DenseAttention(in.q, k, v, [](int64_t, int64_t) { return true; }));
  const Evaluation whole =
      Run(Image(in, 5, 7, {3, 3}).In("k_extra", k).In("v_extra", v).Set("return_lse", true));
  ExpectClose(Array(Output(whole, "o")), merged.o);
  ExpectClose(Array(Output(whole, "lse")), merged.lse);
  // None of them is none.
  ExpectClose(Out(Image(in, 5, 7, {3, 3})
                      .In("k_extra", Array({kB, 0, kH, kK}))
                      .In("v_extra", Array({kB, 0, kH, kV}))),
              Array(Output(grid, "o")));
}

TEST_P(NeighborhoodTest, RefusesGridsThatDoNotFit) {
  const Inputs in = Draw(35);
  ExpectRefused(Image(in, 5, 8, {3, 3}), "height * width tokens");
  ExpectRefused(Around(in, {3}).Set("width", 35), "height and width");
  ExpectRefused(Around(in, {3, 3, 3}).Set("depth", 5), "height");
  ExpectRefused(Image(in, 5, 7, {3}), "window");
  ExpectRefused(Image(in, 5, 7, {3, 3}).Set("stride", Ints{1, 1, 1}), "stride");
  ExpectRefused(Image(in, 5, 7, {3, 3}).Set("dilation", Ints{2, 1}), "window");
  ExpectRefused(Image(in, 5, 7, {3, 3}).Set("stride", Ints{4, 1}), "stride");
  ExpectRefused(Image(in, 5, 7, {0, 3}), "window");
  ExpectRefused(Image(in, 5, 7, {3, 3}).In("k_extra", Array({kB, 1, kH, kK})), "v_extra: missing");
  ExpectRefused(Image(in, 5, 7, {3, 3}).In("v_extra", Array({kB, 1, kH, kV})), "v_extra: given");
}

}  // namespace
}  // namespace attnd::testing
