// What gates at the five places of an attention layer promise.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 19, kH = 4, kHK = 2, kK = 6, kV = 5, kD = 7;

class GatedSoftmaxAttentionTest : public PropertyTest {
 protected:
  CallBuilder Inputs(absl::string_view op) const {
    return Call(op).In("q", q_).In("k", k_).In("v", v_);
  }
  CallBuilder Gated(const std::string& position, const Array& gate) const {
    CallBuilder call = Inputs("gated_softmax_attention").In("gate", gate).Set("position", position);
    if (position == "g5") call.In("w_o", w_);
    return call;
  }
  static Dims Whole(const std::string& position) {
    if (position == "g1") return {kB, kT, kH, kV};
    if (position == "g2") return {kB, kT, kHK, kV};
    if (position == "g3") return {kB, kT, kHK, kK};
    if (position == "g4") return {kB, kT, kH, kK};
    return {kB, kT, kD};
  }
  Array Result(const CallBuilder& call) const { return Array(MainOutput(Run(call))); }
  // [..,1] as [..,size].
  static Array Spread(const Array& x, int64_t size) {
    Dims shape = x.shape();
    shape.pop_back();
    return x.Reshape(shape).Spread(size);
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kHK, kK}),
              v_ = Normal({kB, kT, kHK, kV}), w_ = Normal({kD, kH*kV});
  const std::vector<std::string> places_ = {"g1", "g2", "g3", "g4", "g5"};
};
INSTANTIATE_PROPERTIES(GatedSoftmaxAttentionTest);

TEST_P(GatedSoftmaxAttentionTest, OpenGatesAreSoftmaxAttention) {
  const Array plain = Out(Inputs("softmax_attention").Set("causal", true));
  for (const std::string& place : places_) {
    SCOPED_TRACE(place);
    const Array o = Result(Gated(place, Array(Whole(place), 60)).Set("causal", true));
    if (place != "g5") {
      ExpectClose(o, plain);
      continue;
    }
    Array projected({kB, kT, kD});
    for (int64_t row = 0; row < kB * kT; ++row) {
      for (int64_t d = 0; d < kD; ++d) {
        projected.values()[row * kD + d] =
            Dot(&plain.values()[row * kH * kV], &w_.values()[d * kH * kV], kH * kV);
      }
    }
    ExpectClose(o, projected);
  }
}

TEST_P(GatedSoftmaxAttentionTest, ShutGatesGiveZerosOrTheMeanOfTheValues) {
  const Array zero = Array({kB, kT, kH, kK});
  const Array mean = Out(Inputs("softmax_attention").In("q", zero).Set("causal", true));
  for (const std::string& place : places_) {
    SCOPED_TRACE(place);
    const Array o = Result(Gated(place, Array(Whole(place), -1000)).Set("causal", true));
    if (place == "g3" || place == "g4") {
      ExpectClose(o, mean);
    } else {
      for (const double x : o.values()) EXPECT_EQ(x, 0);
    }
  }
}

TEST_P(GatedSoftmaxAttentionTest, OneGateForAHeadIsThatGateForEachOfItsChannels) {
  for (const std::string& place : places_) {
    for (const char* mode : {"multiplicative", "additive"}) {
      for (const char* activation : {"sigmoid", "silu", "ns_sigmoid", "identity"}) {
        SCOPED_TRACE(absl::StrCat(place, " ", mode, " ", activation));
        Dims shape = Whole(place);
        const int64_t channels = shape.back();
        shape.back() = 1;
        const Array gate = Normal(shape);
        const auto with = [&](const Array& gate) {
          return Result(Gated(place, gate)
                            .Set("mode", std::string(mode))
                            .Set("activation", std::string(activation)));
        };
        ExpectClose(with(gate), with(Spread(gate, channels)));
        if (place == "g5") continue;
        const Array shared = Normal({kB, kT, 1, channels});
        ExpectClose(with(shared), with(shared.Repeat(2, shape[2])));
      }
    }
  }
}

TEST_P(GatedSoftmaxAttentionTest, AGateOfOutputsIsOneOfValuesIfItIsTheSameForAllTokens) {
  const Array token = Normal({kB, 1, 1, 1});
  const auto at = [&](const std::string& place, const Array& gate) {
    return Out(Gated(place, gate));
  };
  const Array constant = token.Repeat(1, kT);
  ExpectClose(at("g1", constant), at("g2", constant));
  const Array varying = Normal({kB, kT, 1, 1});
  EXPECT_GT(RelativeError(at("g1", varying), at("g2", varying)), 0.01);
}

TEST_P(GatedSoftmaxAttentionTest, TheOrderOfKeysDoesNotMatterToGatesOfQueriesAndOutputs) {
  const std::vector<int64_t> order = Permutation(kT);
  for (const std::string place : {"g1", "g4"}) {
    const Array gate = Normal(Whole(place));
    ExpectClose(Out(Gated(place, gate).In("k", k_.Take(1, order)).In("v", v_.Take(1, order))),
                Out(Gated(place, gate)));
  }
  for (const std::string place : {"g2", "g3"}) {
    const Array gate = Normal(Whole(place));
    const CallBuilder moved =
        Gated(place, gate).In("k", k_.Take(1, order)).In("v", v_.Take(1, order));
    EXPECT_GT(RelativeError(Out(moved), Out(Gated(place, gate))), 0.001);
    ExpectClose(Out(CallBuilder(moved).In("gate", gate.Take(1, order))), Out(Gated(place, gate)));
  }
}

TEST_P(GatedSoftmaxAttentionTest, AdditiveGatesAdd) {
  const Array gate = Normal(Whole("g1"));
  const CallBuilder call = Gated("g1", gate)
                               .Set("mode", std::string("additive"))
                               .Set("activation", std::string("identity"));
  ExpectClose(Out(call), Out(Inputs("softmax_attention")) + gate);
}

TEST_P(GatedSoftmaxAttentionTest, TheLogSumIsThatOfTheAttention) {
  const CallBuilder plain = Inputs("softmax_attention").Set("return_lse", true);
  ExpectClose(Out(Gated("g1", Normal(Whole("g1"))).Set("return_lse", true), "lse"),
              Out(plain, "lse"));
}

// A rotation by angles that grow with the token depends on distances alone.
TEST_P(GatedSoftmaxAttentionTest, RotationsDependOnDistances) {
  const auto factors = [&](double first) {
    Array cos({kT, kK}), sin({kT, kK});
    for (int64_t t = 0; t < kT; ++t) {
      for (int64_t c = 0; c < kK; ++c) {
        const double angle = (static_cast<double>(t) + first) * std::pow(0.3, c % (kK / 2));
        cos(t, c) = std::cos(angle);
        sin(t, c) = std::sin(angle);
      }
    }
    return std::pair(cos, sin);
  };
  const auto turned = [&](double first) {
    const auto [cos, sin] = factors(first);
    return Out(Gated("g1", Array({kB, kT, 1, 1})).In("cos", cos).In("sin", sin));
  };
  ExpectClose(turned(5), turned(0));
  EXPECT_GT(RelativeError(turned(0), Out(Gated("g1", Array({kB, kT, 1, 1})))), 0.01);
  const auto [cos, sin] = factors(0);
  const auto both = [](const Array& x) { return x.Reshape({1, kT, kK}).Repeat(0, kB); };
  ExpectClose(Out(Gated("g1", Array({kB, kT, 1, 1})).In("cos", both(cos)).In("sin", both(sin))),
              turned(0));
}

TEST_P(GatedSoftmaxAttentionTest, PiecesWithTheirStateAreTheWhole) {
  const auto [cos, sin] = std::pair(Normal({kT, kK}), Normal({kT, kK}));
  for (const std::string& place : places_) {
    for (const std::string cache : {"dense", "ring"}) {
      SCOPED_TRACE(absl::StrCat(place, " ", cache));
      const Array gate = Normal(Whole(place));
      const auto piece = [&](int64_t begin, int64_t length) {
        CallBuilder call = Gated(place, gate.Slice(1, begin, length));
        call.In("q", q_.Slice(1, begin, length))
            .In("k", k_.Slice(1, begin, length))
            .In("v", v_.Slice(1, begin, length))
            .In("cos", cos.Slice(0, begin, length))
            .In("sin", sin.Slice(0, begin, length));
        if (cache == "ring") call.Set("window_left", 5);
        return call.Set("causal", true).Set("cache", cache);
      };
      const Evaluation first = Run(piece(0, 11));
      CallBuilder rest = piece(11, kT - 11);
      for (const auto& [name, tensor] : first.outputs) {
        if (name.substr(0, 6) == "final_")
          rest.Put(absl::StrCat("initial_", name.substr(6)), tensor);
      }
      ExpectClose(Concatenate({Array(MainOutput(first)), Result(rest)}, 1), Result(piece(0, kT)));
    }
  }
}

TEST_P(GatedSoftmaxAttentionTest, RefusesGatesThatFitNowhere) {
  ExpectRefused(Gated("g1", Array(Whole("g4"))), "gate: given [2,19,4,6], expected [B,T,H or 1");
  ExpectRefused(Gated("g2", Array(Whole("g1"))), "position=g2");
  ExpectRefused(Gated("g3", Array({kB, kT, kK})), "gate: given [2,19,6], expected");
  ExpectRefused(Gated("g5", Array(Whole("g1"))), "gate: given [2,19,4,5], expected [B,T,D or 1]");
  ExpectRefused(Gated("g1", Array({1, kT, kH, kV})), "gate: given");
  ExpectRefused(Inputs("gated_softmax_attention")
                    .In("gate", Array(Whole("g5")))
                    .Set("position", std::string("g5")),
                "g5 with w_o");
  const CallBuilder open = Gated("g1", Array(Whole("g1")));
  ExpectRefused(CallBuilder(open).In("cos", Array({kT, kK})), "cos and sin together");
  const auto odd = [](const Array& x) { return x.Slice(3, 0, 5); };
  ExpectRefused(CallBuilder(open)
                    .In("q", odd(q_))
                    .In("k", odd(k_))
                    .In("cos", Array({kT, 5}))
                    .In("sin", Array({kT, 5})),
                "an even K with a rotation");
  ExpectRefused(CallBuilder(open).Set("activation", std::string("relu")), "activation");
  ExpectRefused(CallBuilder(open).Set("cache", std::string("dense")), "a cache with causal");
}

}  // namespace
}  // namespace attnd::testing
