// What softmax attention promises: masks, windows, caches, sinks and log-sums.
#include <cmath>
#include <limits>

#include "kernels/testing/dense_attention.h"
#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 75, kH = 4, kHK = 2, kK = 16, kV = 12;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

class SoftmaxAttentionTest : public PropertyTest {
 protected:
  CallBuilder Softmax() const { return Softmax(q_, k_, v_); }
  CallBuilder Softmax(const Array& q, const Array& k, const Array& v) const {
    return Call("softmax_attention").In("q", q).In("k", k).In("v", v);
  }
  Attended WithLse(CallBuilder call) const {
    const Evaluation ran = Run(call.Set("return_lse", true));
    return {Array(Output(ran, "o")), Array(Output(ran, "lse"))};
  }
  static Array Mask(const std::function<bool(int64_t, int64_t)>& allowed, int64_t keys = kT) {
    Array mask({kT, keys});
    for (int64_t i = 0; i < kT; ++i) {
      for (int64_t j = 0; j < keys; ++j) mask(i, j) = allowed(i, j) ? 1 : 0;
    }
    return mask;
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kHK, kK}),
              v_ = Normal({kB, kT, kHK, kV});
};
INSTANTIATE_PROPERTIES(SoftmaxAttentionTest);

TEST_P(SoftmaxAttentionTest, WindowsAreMasks) {
  for (const auto& [left, right] : {std::pair{0, 0}, {3, 0}, {0, 5}, {-1, 2}, {7, -1}, {20, 33}}) {
    SCOPED_TRACE(absl::StrCat(left, " ", right));
    const auto allowed = [left = left, right = right](int64_t i, int64_t j) {
      return (left < 0 || j >= i - left) && (right < 0 || j <= i + right);
    };
    const Attended expected = DenseAttention(q_, k_, v_, allowed);
    const Attended ours =
        WithLse(Softmax().Set("window_left", int64_t{left}).Set("window_right", int64_t{right}));
    ExpectClose(ours.o, expected.o);
    ExpectClose(ours.lse, expected.lse);
    ExpectClose(Out(Softmax().Bool("mask", Mask(allowed))), expected.o);
  }
}

TEST_P(SoftmaxAttentionTest, CausalIsALowerTriangle) {
  const auto triangle = [](int64_t i, int64_t j) { return j <= i; };
  const Array o = Out(Softmax().Set("causal", true));
  ExpectClose(o, DenseAttention(q_, k_, v_, triangle).o);
  ExpectClose(Out(Softmax().Bool("mask", Mask(triangle))), o);
  // The right window has no effect, and a left one over everything none either.
  ExpectClose(Out(Softmax().Set("causal", true).Set("window_left", kT - 1).Set("window_right", 1)),
              o);
}

TEST_P(SoftmaxAttentionTest, TheLastQueryFacesTheLastKey) {
  constexpr int64_t kRows = 20;
  const Array whole = Out(Softmax().Set("causal", true));
  ExpectClose(Out(Softmax(q_.Slice(1, kT - kRows, kRows), k_, v_).Set("causal", true)),
              whole.Slice(1, kT - kRows, kRows));
  // More queries than keys: the first ones see nothing.
  const Array few =
      Out(Softmax(q_, k_.Slice(1, 0, kT - kRows), v_.Slice(1, 0, kT - kRows)).Set("causal", true));
  EXPECT_THAT(few.Slice(1, 0, kRows).values(), ::testing::Each(0.0));
}

TEST_P(SoftmaxAttentionTest, ARingEqualsItsWindowOverTheWholeSequence) {
  for (const int64_t window : {0, 5, 30, 200}) {
    SCOPED_TRACE(window);
    const Array whole = Out(Softmax().Set("causal", true).Set("window_left", window));
    const CallBuilder ring =
        Softmax().Set("causal", true).Set("window_left", window).Set("cache", "ring");
    ExpectClose(Out(ring), whole);
    // In pieces, single tokens among them.
    const CallRequest& request = ring.request();
    int64_t at = 0;
    Evaluation last;
    for (const int64_t length : {30, 1, 1, 40, 3}) {
      CallRequest piece = CutTokens(Find("softmax_attention"), request, at, length);
      if (at > 0) piece = WithStates(Find("softmax_attention"), piece, last);
      last = RunRequest(piece);
      ExpectClose(Array(Output(last, "o")), whole.Slice(1, at, length));
      at += length;
    }
    // The ring of one call and that of many hold the same bits.
    const Evaluation once = Run(ring);
    for (const char* state : {"final_state_k", "final_state_v", "final_state_pos"}) {
      EXPECT_TRUE(BitEqual(Output(last, state), Output(once, state))) << state;
    }
  }
}

TEST_P(SoftmaxAttentionTest, ADenseCacheInPiecesEqualsCausal) {
  const Array whole = Out(Softmax().Set("causal", true));
  const CallRequest request = Softmax().Set("causal", true).Set("cache", "dense").request();
  int64_t at = 0;
  Evaluation last;
  for (const int64_t length : {33, 1, 41}) {
    CallRequest piece = CutTokens(Find("softmax_attention"), request, at, length);
    if (at > 0) piece = WithStates(Find("softmax_attention"), piece, last);
    last = RunRequest(piece);
    ExpectClose(Array(Output(last, "o")), whole.Slice(1, at, length));
    at += length;
  }
  EXPECT_EQ(RelativeError(Array(Output(last, "final_state_k")), k_), 0);
  EXPECT_EQ(RelativeError(Array(Output(last, "final_state_v")), v_), 0);
}

TEST_P(SoftmaxAttentionTest, TheOrderOfKeysDoesNotMatter) {
  const std::vector<int64_t> order = Permutation(kT);
  const Array mask = Uniform({kB, kT, kT}, 0, 1).Map([](double x) { return x < 0.7 ? 1 : 0; });
  ExpectClose(
      Out(Softmax(q_, k_.Take(1, order), v_.Take(1, order)).Bool("mask", mask.Take(2, order))),
      Out(Softmax().Bool("mask", mask)));
}

TEST_P(SoftmaxAttentionTest, AConstantOnAllLogitsMovesOnlyTheLogSum) {
  // One more channel: 1 in every key, c sqrt(K) in every query.
  constexpr double kShift = 3;
  const Array one({kB, kT, kHK, 1}, 1), shift({kB, kT, kH, 1}, kShift * 4);
  const Array q = Concatenate({q_, shift}, 3), k = Concatenate({k_, one}, 3);
  const Attended plain = WithLse(Softmax().Set("scale", 0.25));
  const Attended moved = WithLse(Softmax(q, k, v_).Set("scale", 0.25));
  ExpectClose(moved.o, plain.o);
  ExpectClose(moved.lse, plain.lse.Map([](double x) { return x + kShift; }));
}

TEST_P(SoftmaxAttentionTest, SinksTakeTheirShare) {
  const Array sinks = Normal({kH});
  const Attended plain = WithLse(Softmax()), with = WithLse(Softmax().In("sinks", sinks));
  Attended expected = plain;
  for (int64_t row = 0; row < kB * kT * kH; ++row) {
    const double lse = plain.lse.values()[row];
    const double both = std::log(std::exp(lse) + std::exp(sinks(row % kH)));
    expected.lse.values()[row] = both;
    for (int64_t c = 0; c < kV; ++c) expected.o.values()[row * kV + c] *= std::exp(lse - both);
  }
  ExpectClose(with.o, expected.o);
  ExpectClose(with.lse, expected.lse);
  ExpectClose(Out(Softmax().In("sinks", Array({kH}, -kInfinity))), plain.o);
}

TEST_P(SoftmaxAttentionTest, SoftcapBendsLogits) {
  // A cap far above all logits bends nothing.
  ExpectClose(Out(Softmax().Set("softcap", 1e6)), Out(Softmax()));
  ExpectClose(Out(Softmax().Set("softcap", 1e300)), Out(Softmax()));
  // Logits of almost nothing: the mean of the values.
  ExpectClose(Out(Softmax(q_ * 0, k_, v_).Set("softcap", 1e-300)), Out(Softmax(q_ * 0, k_, v_)));
  // Against a single key, whose weight is 1: the log-sum is the capped logit.
  const auto first = [](const Array& x) { return x.Slice(1, 0, 1); };
  const Array plain = WithLse(Softmax(q_, first(k_), first(v_))).lse;
  ExpectClose(WithLse(Softmax(q_, first(k_), first(v_)).Set("softcap", 0.7)).lse,
              plain.Map([](double s) { return 0.7 * std::tanh(s / 0.7); }));
}

TEST_P(SoftmaxAttentionTest, GroupedHeadsShareWhatIsRepeated) {
  ExpectClose(Out(Softmax()), Out(Softmax(q_, k_.Repeat(2, 2), v_.Repeat(2, 2))));
}

TEST_P(SoftmaxAttentionTest, HalvesMergeThroughTheirLogSums) {
  const int64_t half = 31;
  const auto part = [&](int64_t begin, int64_t length) {
    return WithLse(Softmax(q_, k_.Slice(1, begin, length), v_.Slice(1, begin, length)));
  };
  const Attended merged = Merge(part(0, half), part(half, kT - half)), whole = WithLse(Softmax());
  ExpectClose(merged.o, whole.o);
  ExpectClose(merged.lse, whole.lse);
}

TEST_P(SoftmaxAttentionTest, RowsWithoutKeysGiveZeros) {
  const Array mask = Mask([](int64_t i, int64_t j) { return i % 3 != 0 && j % 2 == 0; });
  const Attended got = WithLse(Softmax().Bool("mask", mask));
  EXPECT_THAT(got.o.Slice(1, 3, 1).values(), ::testing::Each(0.0));
  EXPECT_THAT(got.lse.Slice(1, 3, 1).values(), ::testing::Each(-kInfinity));
  const Array sinks = Normal({kH});
  const Array lse = WithLse(Softmax().Bool("mask", mask).In("sinks", sinks)).lse;
  for (int64_t h = 0; h < kH; ++h) EXPECT_NEAR(lse(0, 3, h), sinks(h), 1e-6);
}

TEST_P(SoftmaxAttentionTest, ForbiddenValuesLeaveNoTraceWhateverTheyHold) {
  const auto allowed = [](int64_t i, int64_t j) { return i % 3 == 0 || j % 5 != 0; };
  const Array expected = DenseAttention(q_, k_, v_, allowed).o;
  for (const double bad : {std::nan(""), kInfinity, -kInfinity}) {
    Array k = k_, v = v_;
    for (int64_t j = 0; j < kT; j += 5) k(1, j, 0, 3) = v(1, j, 1, 2) = bad;
    const Array o = Out(Softmax(q_, k, v).Bool("mask", Mask(allowed)));
    for (int64_t i = 0; i < kT; ++i) {
      const auto row = [i](const Array& x) { return x.Slice(0, 1, 1).Slice(1, i, 1); };
      if (i % 3 != 0) {
        ExpectClose(row(o), row(expected));
      } else {
        EXPECT_FALSE(std::isfinite(o(1, i, 2, 2))) << i;
      }
    }
    ExpectClose(o.Slice(0, 0, 1), expected.Slice(0, 0, 1));
  }
}

TEST_P(SoftmaxAttentionTest, TheLongestWindowIsNone) {
  constexpr int64_t kLongest = std::numeric_limits<int64_t>::max();
  const CallBuilder wide = Softmax().Set("window_left", kLongest).Set("window_right", kLongest);
  ExpectClose(Out(wide), Out(Softmax()));
  // More queries than keys: the first ones stand before position 0.
  const CallBuilder few = Softmax(q_, k_.Slice(1, 0, 9), v_.Slice(1, 0, 9)).Set("causal", true);
  ExpectClose(Out(CallBuilder(few).Set("window_left", kLongest)), Out(few));
}

TEST_P(SoftmaxAttentionTest, LargeLogitsStayFinite) {
  ExpectClose(Out(Softmax(q_ * 60, k_, v_)),
              DenseAttention(q_ * 60, k_, v_, [](int64_t, int64_t) { return true; }).o);
}

TEST_P(SoftmaxAttentionTest, OutputsLieAmongTheValues) {
  const Array o = Out(Softmax().Set("causal", true));
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t c = 0; c < kV; ++c) {
      for (int64_t h = 0; h < kH; ++h) {
        double low = kInfinity, high = -kInfinity;
        for (int64_t t = 0; t < kT; ++t) {
          low = std::min(low, v_(b, t, h / 2, c));
          high = std::max(high, v_(b, t, h / 2, c));
          EXPECT_GE(o(b, t, h, c), low - 1e-5);
          EXPECT_LE(o(b, t, h, c), high + 1e-5);
        }
      }
    }
  }
}

TEST_P(SoftmaxAttentionTest, RefusesWhatContradicts) {
  const CallBuilder causal = Softmax().Set("causal", true);
  ExpectRefused(Softmax().Set("cache", "dense"), "a cache with causal");
  ExpectRefused(CallBuilder(causal).Set("cache", "ring"), "a ring with window_left");
  ExpectRefused(CallBuilder(causal).In("initial_state_k", k_).In("initial_state_v", v_),
                "initial_state_k: given");
  ExpectRefused(Softmax(q_.Slice(1, 0, 5), k_, v_).Set("causal", true).Set("cache", "dense"),
                "as many keys as queries");
  ExpectRefused(Softmax(q_.Slice(0, 0, 1), k_.Slice(0, 0, 1), v_.Slice(0, 0, 1))
                    .Bool("mask", Array({kT, kT}, 1))
                    .Offsets({0, kT}),
                "cu_seqlens: given");
  ExpectRefused(CallBuilder(causal)
                    .Set("cache", "ring")
                    .Set("window_left", 3)
                    .Bool("mask", Array({kT, kT}, 1)),
                "mask: given");
  ExpectRefused(Softmax().Set("softcap", -1.0), "softcap");
  ExpectRefused(Softmax().Set("window_left", -2), "window_left");
  ExpectRefused(CallBuilder(causal)
                    .Set("cache", "ring")
                    .Set("window_left", 3)
                    .In("initial_state_k", k_.Slice(1, 0, 3))
                    .In("initial_state_v", v_.Slice(1, 0, 3)),
                "window_left + 1");
  ExpectRefused(CallBuilder(causal)
                    .Set("cache", "ring")
                    .Set("window_left", 3)
                    .In("initial_state_k", k_.Slice(1, 0, 4))
                    .In("initial_state_v", v_.Slice(1, 0, 4))
                    .Put("initial_state_pos", HostTensor<int64_t>({kB}, {4, -1})),
                "initial_state_pos");
  ExpectRefused(CallBuilder(causal)
                    .Set("cache", "ring")
                    .Set("window_left", 3)
                    .In("initial_state_k", k_.Slice(1, 0, 4))
                    .In("initial_state_v", v_.Slice(1, 0, 4))
                    .Put("initial_state_pos",
                         HostTensor<int64_t>({kB}, {4, std::numeric_limits<int64_t>::max()})),
                "initial_state_pos");
}

}  // namespace
}  // namespace attnd::testing
