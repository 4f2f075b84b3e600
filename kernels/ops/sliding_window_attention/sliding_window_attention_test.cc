// What attention in a window promises.
#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 75, kH = 2, kK = 8, kV = 6;

class SlidingWindowAttentionTest : public PropertyTest {
 protected:
  CallBuilder Window(int64_t window) {
    return Call("sliding_window_attention")
        .In("q", q_)
        .In("k", k_)
        .In("v", v_)
        .Set("window", window);
  }
  CallBuilder Whole() {
    return Call("softmax_attention").In("q", q_).In("k", k_).In("v", v_).Set("causal", true);
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV});
};
INSTANTIATE_PROPERTIES(SlidingWindowAttentionTest);

TEST_P(SlidingWindowAttentionTest, AWindowOverAllIsCausalAttention) {
  ExpectClose(Out(Window(kT)), Out(Whole()));
}

TEST_P(SlidingWindowAttentionTest, AWindowOfOneGivesTheValues) { ExpectClose(Out(Window(1)), v_); }

TEST_P(SlidingWindowAttentionTest, CountsAsTheOthersDo) {
  ExpectClose(Out(Window(7)), Out(Whole().Set("window_left", 6)));
  ExpectClose(Out(Window(7).Set("window_right", 6)),
              Out(Whole().Set("causal", false).Set("window_left", 6).Set("window_right", 6)));
}

TEST_P(SlidingWindowAttentionTest, SinksOverAllAreCausalAttention) {
  ExpectClose(Out(Window(3).Set("sink", kT)), Out(Whole()));
  ExpectClose(Out(Window(3).Set("sink", kT).Set("window_right", 5)),
              Out(Whole().Set("causal", false).Set("window_right", 5)));
}

TEST_P(SlidingWindowAttentionTest, ASinkIsReadFromEverywhere) {
  // A key that takes all weight, and the rows that see it.
  Array k = k_, v = v_;
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t h = 0; h < kH; ++h) {
      for (int64_t c = 0; c < kV; ++c) v(b, 2, h, c) = 1e3;
    }
  }
  const Array far = Out(Window(4).In("v", v)).Slice(1, 40, 1);
  const Array sunk = Out(Window(4).In("v", v).Set("sink", 3)).Slice(1, 40, 1);
  for (const double x : far.values()) EXPECT_LT(x, 100);
  double most = 0;
  for (const double x : sunk.values()) most = std::max(most, x);
  EXPECT_GT(most, 1);
}

TEST_P(SlidingWindowAttentionTest, TheLastRowsAreDecoding) {
  for (const int64_t sink : {0, 5}) {
    const Array tail = Out(Window(9).Set("sink", sink)).Slice(1, kT - 4, 4);
    ExpectClose(Out(Window(9).Set("sink", sink).In("q", q_.Slice(1, kT - 4, 4))), tail);
  }
}

TEST_P(SlidingWindowAttentionTest, RefusesWindowsOfNothing) {
  ExpectRefused(Window(0), "window: given 0");
  ExpectRefused(Window(3).Set("sink", -1), "sink: given -1");
  ExpectRefused(Window(3).Set("window_right", -1), "window_right: given -1");
  ExpectRefused(Call("sliding_window_attention").In("q", q_).In("k", k_).In("v", v_), "window");
}

}  // namespace
}  // namespace attnd::testing
