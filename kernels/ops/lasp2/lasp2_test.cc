// What a sequence split over workers promises.
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 41, kH = 2, kK = 5, kV = 4;
using Splits = std::vector<int64_t>;

class Lasp2Test : public PropertyTest {
 protected:
  CallBuilder Split(const Splits& splits) {
    return Call("lasp2").In("q", q_).In("k", k_).In("v", v_).Set("splits", splits);
  }
  static CallBuilder Normalised(CallBuilder call) {
    return call.Set("normalize", true).Set("feature_map", std::string("elu1"));
  }
  // Worker p's part of memories or prefixes.
  static Array Of(const Array& x, int64_t p) {
    Dims shape = x.shape();
    shape.erase(shape.begin());
    return x.Slice(0, p, 1).Reshape(shape);
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV}), g_ = Uniform({kH}, -0.3, -0.01),
              state_ = Normal({kB, kH, kK, kV});
  const std::vector<Splits> splits_ = {{kT}, {10, 0, 20, 11}, {0, kT}, Splits(kT, 1)};
};
INSTANTIATE_PROPERTIES(Lasp2Test);

TEST_P(Lasp2Test, AnySplitIsTheUnsplitOperator) {
  const auto linear = [&](const char* op) { return Call(op).In("q", q_).In("k", k_).In("v", v_); };
  for (const bool causal : {true, false}) {
    const Array plain = Out(linear("linear_attention").Set("causal", causal));
    const Array normalised =
        Out(Normalised(linear("linear_attention").Set("causal", causal)).Set("eps", 0.01));
    const Array softmax = Out(linear("softmax_attention").Set("causal", causal));
    for (const Splits& splits : splits_) {
      const CallBuilder call = Split(splits).Set("causal", causal);
      ExpectClose(Out(call), plain);
      ExpectClose(Out(Normalised(call).Set("eps", 0.01)), normalised);
      ExpectClose(Out(CallBuilder(call).Set("kind", std::string("softmax"))), softmax);
    }
  }
}

TEST_P(Lasp2Test, DecaysAreThoseOfGatedLinearAttention) {
  Array g({kB, kT, kH});
  for (int64_t i = 0; i < kB * kT * kH; ++i) g.values()[i] = g_(i % kH);
  const CallBuilder gla =
      Call("gla").In("q", q_).In("k", k_).In("v", v_).In("g", g).In("initial_state", state_);
  for (const Splits& splits : splits_) {
    const CallBuilder call = Split(splits).In("g", g_).In("initial_state", state_);
    ExpectClose(Out(call), Out(gla));
    ExpectClose(Out(call, "final_state"), Out(gla, "final_state"));
  }
}

TEST_P(Lasp2Test, MemoriesAreTheStatesOfTheChunks) {
  const Splits splits = {10, 0, 20, 11};
  const CallBuilder call = Normalised(Split(splits)).In("initial_state", state_);
  int64_t begin = 0;
  for (int64_t p = 0; p < 4; ++p) {
    const auto cut = [&](const Array& x) { return x.Slice(1, begin, splits[p]); };
    const CallBuilder chunk =
        Normalised(Call("linear_attention")).In("q", cut(q_)).In("k", cut(k_)).In("v", cut(v_));
    ExpectClose(Of(Out(call, "memory"), p), Out(chunk, "final_state"));
    ExpectClose(Of(Out(call, "memory_z"), p), Out(chunk, "final_state_z"));
    begin += splits[p];
  }
}

TEST_P(Lasp2Test, TheLastPrefixAndMemoryAreTheFinalState) {
  const CallBuilder call = Normalised(Split({10, 20, 11})).In("initial_state", state_);
  ExpectClose(Of(Out(call, "prefix"), 2) + Of(Out(call, "memory"), 2), Out(call, "final_state"));
  ExpectClose(Of(Out(call, "prefix_z"), 2) + Of(Out(call, "memory_z"), 2),
              Out(call, "final_state_z"));
  ExpectClose(Of(Out(call, "prefix"), 0), state_);
}

TEST_P(Lasp2Test, WithoutCausalityAllReadTheSum) {
  const CallBuilder call = Split({10, 20, 11}).Set("causal", false);
  const Array prefix = Out(call, "prefix"), memory = Out(call, "memory");
  for (int64_t p = 0; p < 3; ++p) {
    ExpectClose(Of(prefix, p), Of(memory, 0) + Of(memory, 1) + Of(memory, 2));
  }
}

TEST_P(Lasp2Test, CallsMayBeCut) {
  const auto part = [&](int64_t begin, const Splits& splits, int64_t count) {
    const auto cut = [&](const Array& x) { return x.Slice(1, begin, count); };
    return Call("lasp2")
        .In("q", cut(q_))
        .In("k", cut(k_))
        .In("v", cut(v_))
        .In("g", g_)
        .Set("splits", splits);
  };
  const Evaluation first = Run(part(0, {7, 9}, 16));
  ExpectClose(
      Out(part(16, {20, kT - 36}, kT - 16).Put("initial_state", Output(first, "final_state"))),
      Out(part(0, {kT}, kT)).Slice(1, 16, kT - 16));
  const Array nothing({kB, 0, kH, kK}), no_values({kB, 0, kH, kV});
  ExpectClose(Out(Call("lasp2")
                      .In("q", nothing)
                      .In("k", nothing)
                      .In("v", no_values)
                      .In("initial_state", state_)
                      .Set("splits", Splits{0, 0}),
                  "final_state"),
              state_);
}

TEST_P(Lasp2Test, RefusesSplitsThatDoNotAddUp) {
  ExpectRefused(Call("lasp2").In("q", q_).In("k", k_).In("v", v_), "splits: missing");
  ExpectRefused(Split({kT + 1, -1}), "splits: given");
  ExpectRefused(Split({kT - 1}), "splits: given [40], expected a sum of T=41");
  ExpectRefused(Split({}), "at least one worker");
  ExpectRefused(Split({kT}).In("g", g_).Set("causal", false), "g: given, expected only if");
  ExpectRefused(Split({kT}).In("g", g_).Set("kind", std::string("softmax")), "g: given");
  ExpectRefused(Split({kT}).In("initial_state", state_).Set("causal", false),
                "initial_state: given, expected only if");
  ExpectRefused(Split({kT}).Set("normalize", true).Set("kind", std::string("softmax")),
                "no normaliser with softmax");
}

}  // namespace
}  // namespace attnd::testing
