// What mean-normalised attention promises, and its module.
#include <algorithm>

#include "kernels/testing/pairwise_mean.h"
#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 45, kH = 2, kK = 8, kV = 6, kC = 12, kD = 10;

class LinfusionTest : public PropertyTest {
 protected:
  CallBuilder Core(const Array& q, const Array& k, const Array& v) const {
    return Call("linfusion").In("q", q).In("k", k).In("v", v);
  }
  CallBuilder Module(const Array& x) {
    CallBuilder call = Call("linfusion");
    call.In("x", x).In("to_q", to_q_).In("to_k", to_k_).In("to_v", to_v_).Set("heads", kH);
    for (const std::string side : {"q", "k"}) {
      call.In(side + "_w1", Normal({kD, kC})).In(side + "_b1", Normal({kD}));
      call.In(side + "_norm_weight", Normal({kD})).In(side + "_norm_bias", Normal({kD}));
      call.In(side + "_w2", Array({kC, kD})).In(side + "_b2", Array({kC}));
    }
    return call;
  }
  static Array Projected(const Array& x, const Array& weight) {
    Array y({kB, kT, kH, weight.dim(0) / kH});
    for (int64_t row = 0; row < kB * kT; ++row) {
      for (int64_t r = 0; r < weight.dim(0); ++r) {
        y.values()[row * weight.dim(0) + r] =
            Dot(&x.values()[row * kC], &weight.values()[r * kC], kC);
      }
    }
    return y;
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV});
  const Array x_ = Normal({kB, kT, kC}), to_q_ = Normal({kH * kK, kC}) * 0.2,
              to_k_ = Normal({kH * kK, kC}) * 0.2, to_v_ = Normal({kH * kV, kC});
};
INSTANTIATE_PROPERTIES(LinfusionTest);

TEST_P(LinfusionTest, EqualsItsQuadraticForm) {
  for (const double eps : {0.0, 1e-4, 0.5}) {
    const Array weights = MeanNormalised(PairProducts(Elu1(q_), Elu1(k_)), eps);
    ExpectClose(Out(Core(q_, k_, v_).Set("eps", eps)), WeightedSum(weights, v_));
  }
}

TEST_P(LinfusionTest, MixesValuesConvexly) {
  const Array ones(v_.shape(), 1);
  ExpectClose(Out(Core(q_, k_, ones).Set("eps", 0.0)), ones);
  const Array o = Out(Core(q_, k_, v_).Set("eps", 0.0));
  const auto [low, high] = std::minmax_element(v_.values().begin(), v_.values().end());
  for (const double x : o.values()) {
    EXPECT_GE(x, *low);
    EXPECT_LE(x, *high);
  }
}

TEST_P(LinfusionTest, RepeatedTokensChangeNothing) {
  const auto thrice = [](const Array& x) { return x.Repeat(1, 3); };
  ExpectClose(Out(Core(thrice(q_), thrice(k_), thrice(v_)).Set("eps", 0.1)),
              thrice(Out(Core(q_, k_, v_).Set("eps", 0.1))));
}

TEST_P(LinfusionTest, FollowsPermutationsOfTheTokens) {
  const std::vector<int64_t> order = Permutation(kT);
  ExpectClose(Out(Core(q_.Take(1, order), k_.Take(1, order), v_.Take(1, order))),
              Out(Core(q_, k_, v_)).Take(1, order));
}

TEST_P(LinfusionTest, BranchesOfNothingLeavePlainProjections) {
  ExpectClose(Out(Module(x_)),
              Out(Core(Projected(x_, to_q_), Projected(x_, to_k_), Projected(x_, to_v_))));
}

TEST_P(LinfusionTest, ABranchMovesTheInputOfItsOwnProjection) {
  // W2 = 0: the branch adds its last bias, whatever comes before.
  const Array bias = Normal({kC});
  Array moved = x_;
  for (size_t i = 0; i < moved.values().size(); ++i) moved.values()[i] += bias.values()[i % kC];
  ExpectClose(Out(Module(x_).In("k_b2", bias)),
              Out(Core(Projected(x_, to_q_), Projected(moved, to_k_), Projected(x_, to_v_))));
}

TEST_P(LinfusionTest, TakesNoTokens) {
  const Array none({kB, 0, kH, kK});
  EXPECT_EQ(Out(Core(none, none, none)).shape(), none.shape());
  EXPECT_EQ(Out(Module(Array({kB, 0, kC}))).shape(), (Dims{kB, 0, kH, kV}));
}

TEST_P(LinfusionTest, RefusesHalfAModule) {
  ExpectRefused(Core(q_, k_, v_).In("x", x_), "q: given, expected only if !has(x)");
  ExpectRefused(Core(q_, k_, v_).In("to_q", to_q_), "to_q: given, expected only if has(x)");
  ExpectRefused(Core(q_, k_.Slice(1, 0, kT - 1), v_), "k: given [2,44,2,8]");
  ExpectRefused(Module(x_).Set("heads", int64_t{5}), "heads that divide");
  ExpectRefused(Module(x_).Set("heads", int64_t{0}), "heads: given 0");
  CallBuilder incomplete = Call("linfusion");
  incomplete.In("x", x_).In("to_q", to_q_).Set("heads", kH);
  ExpectRefused(incomplete, "to_k: missing");
  CallRequest headless = Module(x_).request();
  headless.attributes = {};
  const absl::Status status = Evaluate(Find("linfusion"), Cpu(), headless).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr("heads with x"));
}

}  // namespace
}  // namespace attnd::testing
