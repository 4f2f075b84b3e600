// What the two cross-attentions of DCAL promise.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 27, kH = 3, kK = 6, kV = 5, kLayers = 3, kHeads = 2;

class DualCrossAttentionTest : public PropertyTest {
 protected:
  CallBuilder Inputs(absl::string_view op) const {
    return Call(op).In("q", q_).In("k", k_).In("v", v_);
  }
  CallBuilder Glca(const Array& maps) const {
    return Inputs("dual_cross_attention").In("attn", maps).Set("num_prefix", int64_t{2});
  }
  CallBuilder Pwca(const Array& k, const Array& v) const {
    return Inputs("dual_cross_attention").In("k2", k).In("v2", v).Set("mode", std::string("pwca"));
  }
  // Rows that sum to 1.
  Array Maps(Dims shape) {
    Array maps = Uniform(std::move(shape), 0, 1);
    for (size_t row = 0; row < maps.values().size(); row += kT) {
      const auto begin = maps.values().begin() + static_cast<int64_t>(row);
      const double sum = std::accumulate(begin, begin + kT, 0.0);
      std::for_each(begin, begin + kT, [sum](double& x) { x /= sum; });
    }
    return maps;
  }
  void ExpectRowsOfSelfAttention(const CallBuilder& call) const {
    const Evaluation result = Run(call);
    const Array o(Output(result, "o")), indices(Output(result, "indices"));
    const Array whole = Out(Inputs("softmax_attention"));
    for (int64_t b = 0; b < kB; ++b) {
      std::vector<int64_t> rows;
      for (int64_t m = 0; m < indices.dim(1); ++m)
        rows.push_back(static_cast<int64_t>(indices(b, m)));
      ExpectClose(o.Slice(0, b, 1), whole.Slice(0, b, 1).Take(1, rows));
    }
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV});
  const Array maps_ = Maps({kB, kLayers, kHeads, kT, kT});
};
INSTANTIATE_PROPERTIES(DualCrossAttentionTest);

TEST_P(DualCrossAttentionTest, ItsRowsAreRowsOfSelfAttention) {
  ExpectRowsOfSelfAttention(Glca(maps_));
  ExpectRowsOfSelfAttention(Glca(maps_).Set("top_r", int64_t{7}).Set("include_prefix", false));
  // floor(0.1 25) = 2 patches behind a prefix of 2.
  const Array indices = Out(Glca(maps_), "indices");
  EXPECT_EQ(indices.shape(), (Dims{kB, 4}));
  EXPECT_TRUE(indices(1, 0) == 0 && indices(1, 1) == 1);
  EXPECT_EQ(Out(Glca(maps_).Set("top_ratio", 0.001), "indices").shape(), (Dims{kB, 3}));
}

TEST_P(DualCrossAttentionTest, ARatioOfOneGivesAllRows) {
  const CallBuilder call = Glca(maps_).Set("top_ratio", 1.0);
  ExpectRowsOfSelfAttention(call);
  const Array indices = Out(call, "indices");
  for (int64_t b = 0; b < kB; ++b) {
    std::vector<double> row;
    for (int64_t m = 0; m < kT; ++m) row.push_back(indices(b, m));
    std::sort(row.begin(), row.end());
    for (int64_t m = 0; m < kT; ++m) EXPECT_EQ(row[static_cast<size_t>(m)], m);
  }
}

TEST_P(DualCrossAttentionTest, TheRolloutSumsToOne) {
  const Array rollout = Out(Glca(maps_), "rollout");
  for (int64_t b = 0; b < kB; ++b) {
    double sum = 0;
    for (int64_t t = 0; t < kT; ++t) sum += rollout(b, t);
    EXPECT_NEAR(sum, 1, 1e-5);
  }
}

TEST_P(DualCrossAttentionTest, OneLayerIsRankedByItsClassRow) {
  const Array map = Maps({kB, 1, kT, kT});
  const CallBuilder call = Glca(map).Set("top_ratio", 1.0).Set("include_prefix", false);
  const Array indices = Out(call, "indices"), rollout = Out(call, "rollout");
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t m = 1; m < kT - 2; ++m) {
      EXPECT_GE(map(b, 0, 0, static_cast<int64_t>(indices(b, m - 1))),
                map(b, 0, 0, static_cast<int64_t>(indices(b, m))));
    }
    EXPECT_NEAR(rollout(b, 5), 0.5 * map(b, 0, 0, 5), 1e-6);
  }
}

TEST_P(DualCrossAttentionTest, EqualPatchesKeepTheirOrder) {
  const Array indices =
      Out(Glca(Array({kB, 2, kT, kT}, 1.0 / kT)).Set("top_r", int64_t{4}), "indices");
  for (int64_t m = 0; m < 6; ++m) EXPECT_EQ(indices(0, m), m);
}

TEST_P(DualCrossAttentionTest, ASecondImageThatIsTheFirstOrNoneIsSelfAttention) {
  const Array whole = Out(Inputs("softmax_attention"));
  ExpectClose(Out(Pwca(k_, v_)), whole);
  ExpectClose(Out(Pwca(Array({kB, 0, kH, kK}), Array({kB, 0, kH, kV}))), whole);
  const Array k2 = Normal({kB, 11, kH, kK}), v2 = Normal({kB, 11, kH, kV});
  ExpectClose(Out(Pwca(k2, v2)), Out(Inputs("softmax_attention")
                                         .In("k", Concatenate({k_, k2}, 1))
                                         .In("v", Concatenate({v_, v2}, 1))));
}

TEST_P(DualCrossAttentionTest, RefusesTheOtherModesInputs) {
  ExpectRefused(Glca(maps_).In("k2", k_), "k2: given, expected only if mode == 'pwca'");
  ExpectRefused(Pwca(k_, v_).In("attn", maps_), "attn: given, expected only if mode == 'glca'");
  ExpectRefused(Inputs("dual_cross_attention"), "attn: missing");
  ExpectRefused(Glca(maps_).Set("top_ratio", 0.0), "top_ratio: given 0");
  ExpectRefused(Glca(maps_).Set("top_ratio", 1.1), "top_ratio: given 1.1");
  ExpectRefused(Glca(maps_).Set("top_r", int64_t{0}), "top_r: given 0");
  ExpectRefused(Glca(maps_).Set("top_r", int64_t{26}), "top_r of at most all patches");
  ExpectRefused(Glca(maps_).Set("num_prefix", int64_t{0}), "num_prefix: given 0");
  ExpectRefused(Glca(maps_).Set("num_prefix", kT), "at least one patch");
  ExpectRefused(Glca(Array({kB, 2, kT + 1, kT + 1})), "attn: given");
  ExpectRefused(Glca(Array({kB, 0, kT, kT})), "attn: given a size of 0 for L");
}

}  // namespace
}  // namespace attnd::testing
