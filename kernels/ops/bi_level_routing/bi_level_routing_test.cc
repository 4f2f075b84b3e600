// What attention to the most similar regions of an image promises.
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kHeight = 6, kWidth = 9, kN = kHeight * kWidth, kH = 2, kK = 5, kV = 4;

class BiLevelRoutingTest : public PropertyTest {
 protected:
  CallBuilder Routed() const { return Routed(q_, k_, v_); }
  CallBuilder Routed(const Array& q, const Array& k, const Array& v) const {
    return Call("bi_level_routing")
        .In("q", q)
        .In("k", k)
        .In("v", v)
        .Set("height", kHeight)
        .Set("width", kWidth)
        .Set("regions", int64_t{3})
        .Set("top_k", int64_t{2})
        .Set("return_routing", true);
  }
  CallBuilder Whole() const {
    return Call("softmax_attention")
        .In("q", q_)
        .In("k", k_)
        .In("v", v_)
        .Set("scale", 1 / std::sqrt(static_cast<double>(kH * kK)));
  }
  // Regions of two rows and three columns.
  static int64_t Region(int64_t token) { return token / kWidth / 2 * 3 + token % kWidth / 3; }

  const Array q_ = Normal({kB, kN, kH, kK}), k_ = Normal({kB, kN, kH, kK}),
              v_ = Normal({kB, kN, kH, kV});
};
INSTANTIATE_PROPERTIES(BiLevelRoutingTest);

TEST_P(BiLevelRoutingTest, AllRegionsAreSoftmaxAttention) {
  const Array whole = Out(Whole());
  ExpectClose(Out(Routed().Set("top_k", int64_t{9})), whole);
  ExpectClose(Out(Routed().Set("regions", int64_t{1}).Set("top_k", int64_t{1})), whole);
  EXPECT_GT(RelativeError(Out(Routed()), whole), 0.01);
}

// Each region's mean far along an axis of its own.
TEST_P(BiLevelRoutingTest, RegionsFarApartAttendToThemselves) {
  Array q = Array({kB, kN, 1, 9}), k = q;
  const Array noise = Normal(q.shape()) * 0.1, values = Normal({kB, kN, 1, kV});
  Array mask({kN, kN});
  for (int64_t i = 0; i < kN; ++i) {
    for (int64_t b = 0; b < kB; ++b) q(b, i, 0, Region(i)) = k(b, i, 0, Region(i)) = 3;
    for (int64_t j = 0; j < kN; ++j) mask(i, j) = Region(i) == Region(j) ? 1 : 0;
  }
  const Array query = q + noise;
  const CallBuilder routed = Routed(query, k, values).Set("top_k", int64_t{1});
  ExpectClose(
      Out(routed),
      Out(Call("softmax_attention").In("q", query).In("k", k).In("v", values).Bool("mask", mask)));
  const Array routing = Out(routed, "routing");
  for (int64_t r = 0; r < 9; ++r) EXPECT_EQ(routing(1, r, 0), r);
}

TEST_P(BiLevelRoutingTest, ACentralKernelAddsTheValues) {
  Array weight({kH * kV, 3, 5});
  for (int64_t c = 0; c < kH * kV; ++c) weight(c, 1, 2) = 1;
  ExpectClose(Out(Routed().In("lepe_weight", weight)), Out(Routed()) + v_);
  const Array bias = Normal({kH * kV});
  Array expected = Out(Routed()) + v_;
  for (size_t i = 0; i < expected.values().size(); ++i) {
    expected.values()[i] += bias.values()[i % (kH * kV)];
  }
  ExpectClose(Out(Routed().In("lepe_weight", weight).In("lepe_bias", bias)), expected);
}

TEST_P(BiLevelRoutingTest, OrderWithinARegionMovesRows) {
  std::vector<int64_t> order = Permutation(kN), within(kN);
  // The tokens of each region in the order in which the permutation has them.
  std::vector<std::vector<int64_t>> members(9);
  for (const int64_t token : order) members[Region(token)].push_back(token);
  for (int64_t i = kN - 1; i >= 0; --i) {
    within[i] = members[Region(i)].back();
    members[Region(i)].pop_back();
  }
  ExpectClose(Out(Routed(q_.Take(1, within), k_.Take(1, within), v_.Take(1, within))),
              Out(Routed()).Take(1, within));
}

TEST_P(BiLevelRoutingTest, AConstantOnAllKeysChangesNothing) {
  const Array shift = Normal({kB, 1, kH, kK}).Repeat(1, kN);
  const CallBuilder moved = Routed(q_, k_ + shift, v_);
  ExpectClose(Out(moved), Out(Routed()));
  ExpectClose(Out(moved, "routing"), Out(Routed(), "routing"));
}

// Regions of five rows, and of one: 8 by 9 of them.
TEST_P(BiLevelRoutingTest, BordersAreFilledUpWithKeysOfZeros) {
  constexpr int64_t kTall = 37, kNarrow = 9, kTokens = kTall * kNarrow;
  const Array q = Normal({1, kTokens, 1, kK}), k = Normal({1, kTokens, 1, kK}),
              v = Normal({1, kTokens, 1, kV});
  const CallBuilder call = Routed(q, k, v)
                               .Set("height", kTall)
                               .Set("width", kNarrow)
                               .Set("regions", int64_t{7})
                               .Set("auto_pad", true)
                               .Set("top_k", int64_t{72});
  EXPECT_EQ(Out(call, "routing").shape(), (Dims{1, 72, 72}));
  // Three rows of zeros beyond the image are keys: the softmax's denominator has them.
  const Array grown = Concatenate({k, Array({1, 3 * kNarrow, 1, kK})}, 1);
  ExpectClose(Out(call), Out(Call("softmax_attention")
                                 .In("q", q)
                                 .In("k", grown)
                                 .In("v", Concatenate({v, Array({1, 3 * kNarrow, 1, kV})}, 1))));
}

TEST_P(BiLevelRoutingTest, EqualRegionsAreReadInTheirOrder) {
  const Array routing = Out(Routed(Array(q_.shape()), k_, v_), "routing");
  for (int64_t r = 0; r < 9; ++r) EXPECT_TRUE(routing(0, r, 0) == 0 && routing(0, r, 1) == 1);
}

TEST_P(BiLevelRoutingTest, RefusesWhatIsNoImage) {
  ExpectRefused(Routed().Set("height", int64_t{5}), "height * width tokens");
  ExpectRefused(Routed().In("k", k_.Slice(2, 0, 1)), "k: given");
  ExpectRefused(Routed().Set("regions", int64_t{0}), "regions: given 0");
  ExpectRefused(Routed().Set("regions", int64_t{7}).Set("auto_pad", true),
                "at most as many regions");
  ExpectRefused(Routed().Set("regions", int64_t{4}), "or auto_pad");
  ExpectRefused(Routed().Set("top_k", int64_t{10}), "top_k of at most all regions");
  ExpectRefused(Routed().Set("top_k", int64_t{0}), "top_k: given 0");
  ExpectRefused(Routed().In("lepe_weight", Array({kH * kV, 2, 3})), "odd kernel sizes");
  ExpectRefused(Routed().In("lepe_bias", Array({kH * kV})), "lepe_bias: given, expected only if");
  ExpectRefused(Routed().Set("scale", 0.0), "scale: given 0");
}

}  // namespace
}  // namespace attnd::testing
