// What attention inside blocks promises.
#include <algorithm>
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 45, kH = 2, kK = 6, kV = 5, kC = 7;

class DiagAttentionTest : public PropertyTest {
 protected:
  CallBuilder Blocks(int64_t block) {
    return Call("diag_attention").In("q", q_).In("k", k_).In("v", v_).Set("block_size", block);
  }
  CallBuilder Softmax() { return Call("softmax_attention").In("q", q_).In("k", k_).In("v", v_); }
  // bool [T,T]: the key is of the query's block.
  static Array BlockMask() {
    Array mask({kT, kT});
    for (int64_t t = 0; t < kT; ++t) {
      for (int64_t s = 0; s < kT; ++s) mask(t, s) = t / kC == s / kC;
    }
    return mask;
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV});
};
INSTANTIATE_PROPERTIES(DiagAttentionTest);

TEST_P(DiagAttentionTest, OneBlockIsFullAttention) {
  for (const bool causal : {true, false}) {
    for (const int64_t block : {kT, kT + 20}) {
      ExpectClose(Out(Blocks(block).Set("causal", causal)), Out(Softmax().Set("causal", causal)));
    }
  }
}

TEST_P(DiagAttentionTest, BlocksOfOneGiveTheValues) { ExpectClose(Out(Blocks(1)), v_); }

TEST_P(DiagAttentionTest, IsSoftmaxAttentionUnderTheBlockMask) {
  for (const bool causal : {true, false}) {
    ExpectClose(Out(Blocks(kC).Set("causal", causal).Set("scale", 0.7)),
                Out(Softmax().Bool("mask", BlockMask()).Set("causal", causal).Set("scale", 0.7)));
  }
}

TEST_P(DiagAttentionTest, ReluWeightsAreNotDivided) {
  for (const bool causal : {true, false}) {
    for (const bool square : {true, false}) {
      Array o(v_.shape());
      for (int64_t b = 0; b < kB; ++b) {
        for (int64_t h = 0; h < kH; ++h) {
          for (int64_t t = 0; t < kT; ++t) {
            for (int64_t s = t / kC * kC; s < std::min(kT, (t / kC + 1) * kC); ++s) {
              if (causal && s > t) break;
              double weight = 0;
              for (int64_t i = 0; i < kK; ++i) weight += q_(b, t, h, i) * k_(b, s, h, i);
              weight = std::max(weight / std::sqrt(static_cast<double>(kK)), 0.0);
              if (square) weight *= weight;
              for (int64_t j = 0; j < kV; ++j) o(b, t, h, j) += weight * v_(b, s, h, j);
            }
          }
        }
      }
      ExpectClose(Out(Blocks(kC)
                          .Set("activation", std::string(square ? "relu2" : "relu"))
                          .Set("causal", causal)),
                  o);
    }
  }
}

TEST_P(DiagAttentionTest, BlocksAreIndependent) {
  Array k = k_;
  for (int64_t t = 2 * kC; t < 3 * kC; ++t) k(0, t, 0, 0) += 1;
  const Array before = Out(Blocks(kC)), after = Out(Blocks(kC).In("k", k));
  EXPECT_EQ(after.Slice(1, 0, 2 * kC).values(), before.Slice(1, 0, 2 * kC).values());
  EXPECT_EQ(after.Slice(1, 3 * kC, kT - 3 * kC).values(),
            before.Slice(1, 3 * kC, kT - 3 * kC).values());
  EXPECT_NE(after.values(), before.values());
}

TEST_P(DiagAttentionTest, SplitsAnywhereHandTheOpenBlockOn) {
  for (const char* activation : {"softmax", "relu"}) {
    const auto part = [&](int64_t begin, int64_t count) {
      const auto cut = [&](const Array& x) { return x.Slice(1, begin, count); };
      return Call("diag_attention")
          .In("q", cut(q_))
          .In("k", cut(k_))
          .In("v", cut(v_))
          .Set("block_size", kC)
          .Set("activation", std::string(activation));
    };
    const Evaluation whole = Run(part(0, kT));
    for (const int64_t at : {int64_t{1}, kC - 1, kC, kC + 3, kT - 1}) {
      const Evaluation first = Run(part(0, at));
      CallBuilder rest = part(at, kT - at);
      for (const char* state : {"state_k", "state_v", "state_pos"}) {
        rest.Put(absl::StrCat("initial_", state), Output(first, absl::StrCat("final_", state)));
      }
      const Evaluation second = Run(rest);
      ExpectClose(Array(Output(second, "o")), Array(Output(whole, "o")).Slice(1, at, kT - at));
      ExpectClose(Array(Output(second, "final_state_k")), Array(Output(whole, "final_state_k")));
    }
  }
}

TEST_P(DiagAttentionTest, TheStateIsTheOpenBlock) {
  const Evaluation result = Run(Blocks(kC));
  const Array state(Output(result, "final_state_v"));
  const int64_t open = kT % kC;
  ExpectClose(state.Slice(1, 0, open), v_.Slice(1, kT - open, open));
  const Array rest = state.Slice(1, open, kC - open);
  EXPECT_EQ(rest.values(), Array(rest.shape()).values());
}

TEST_P(DiagAttentionTest, PackedBlocksBeginAnew) {
  const auto row = [](const Array& x) { return x.Slice(0, 0, 1); };
  const auto tail = [](const Array& x) { return x.Slice(0, 0, 1).Slice(1, 17, kT - 17); };
  ExpectClose(
      Out(Blocks(kC).In("q", row(q_)).In("k", row(k_)).In("v", row(v_)).Offsets({0, 17, kT}))
          .Slice(1, 17, kT - 17),
      Out(Blocks(kC).In("q", tail(q_)).In("k", tail(k_)).In("v", tail(v_))));
}

TEST_P(DiagAttentionTest, NormsAreThoseOfNormAttention) {
  const Array gate = Normal({kH * kV});
  const auto normed = [&](CallBuilder call) {
    return call.Set("norm", std::string("gated_rms")).In("norm_gate", gate);
  };
  // A norm of what comes without one: linear attention of a single token whose weight is 1.
  const Array o = Out(Blocks(kC).Set("activation", std::string("relu")));
  const Array ones({kB * kT, 1, kH, 1}, 1);
  const Array expected = Out(normed(Call("norm_attention")
                                        .In("q", ones)
                                        .In("k", ones)
                                        .In("v", o.Reshape({kB * kT, 1, kH, kV}))
                                        .Set("feature_map", std::string("identity"))));
  ExpectClose(Out(normed(Blocks(kC).Set("activation", std::string("relu")))),
              expected.Reshape({kB, kT, kH, kV}));
}

TEST_P(DiagAttentionTest, RefusesWhatDoesNotFit) {
  ExpectRefused(Blocks(0), "block_size: given 0");
  ExpectRefused(Blocks(kC).In("norm_gate", Normal({kH * kV})), "norm_gate: given, expected only");
  CallBuilder call = Blocks(kC).In("initial_state_k", Normal({kB, kC, kH, kK}));
  ExpectRefused(call, "all of the state, or none of it");
  call.In("initial_state_v", Normal({kB, kC - 1, kH, kV}))
      .Put("initial_state_pos", HostTensor<int64_t>({kB}, {0, 0}));
  ExpectRefused(call, "initial_state_v: given");
  ExpectRefused(CallBuilder(call).Set("causal", false), "given, expected only if causal");
}

}  // namespace
}  // namespace attnd::testing
