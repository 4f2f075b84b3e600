// What multi-head latent attention promises.
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 23, kPast = 50, kS = kPast + kT, kH = 3, kR = 20;
constexpr int64_t kDn = 12, kDr = 6, kDv = 10;

class MlaTest : public PropertyTest {
 protected:
  const Array q_ = Normal({kB, kS, kH, kDn + kDr}), c_ = Normal({kB, kS, kR}),
              rope_ = Normal({kB, kS, kDr}), w_ = Normal({kH, kDn + kDv, kR}) * 0.3;

  CallBuilder Mla(const Array& q, const Array& c, const Array& rope) {
    return Call("mla").In("q", q).In("c", c).In("k_rope", rope).In("w_kv_b", w_);
  }
  CallBuilder Mla() { return Mla(q_, c_, rope_); }

  // Rows [first, first + rows) of every head's W times the latents: [B,S,H,rows].
  Array Project(const Array& c, int64_t first, int64_t rows) const {
    Array out({c.dim(0), c.dim(1), kH, rows});
    for (int64_t b = 0; b < c.dim(0); ++b) {
      for (int64_t s = 0; s < c.dim(1); ++s) {
        for (int64_t h = 0; h < kH; ++h) {
          for (int64_t i = 0; i < rows; ++i) {
            for (int64_t r = 0; r < kR; ++r) out(b, s, h, i) += w_(h, first + i, r) * c(b, s, r);
          }
        }
      }
    }
    return out;
  }

  // Softmax attention on explicit keys and values.
  CallBuilder Explicit(const Array& q, const Array& c, const Array& rope) {
    const Array parts[] = {Project(c, 0, kDn), rope.Reshape({kB, kS, 1, kDr}).Repeat(2, kH)};
    return Call("softmax_attention")
        .In("q", q)
        .In("k", Concatenate(parts, 3))
        .In("v", Project(c, kDn, kDv))
        .Set("causal", true);
  }

  // The last kDr channels of every row turned by its token's place.
  static Array Turned(const Array& x, bool interleaved, double theta) {
    Array out = x;
    const int64_t width = x.dim(-1 + x.rank()), rows = x.dim(1),
                  heads = x.rank() == 4 ? x.dim(2) : 1;
    for (int64_t i = 0; i < kB * rows * heads; ++i) {
      const auto position = static_cast<double>(i / heads % rows);
      double* row = &out.values()[static_cast<size_t>((i + 1) * width - kDr)];
      for (int64_t p = 0; p < kDr / 2; ++p) {
        const double angle = position * std::pow(theta, -2.0 * static_cast<double>(p) / kDr);
        double& first = row[interleaved ? 2 * p : p];
        double& second = row[interleaved ? 2 * p + 1 : p + kDr / 2];
        const double turned = first * std::cos(angle) - second * std::sin(angle);
        second = second * std::cos(angle) + first * std::sin(angle);
        first = turned;
      }
    }
    return out;
  }

  static Array Past(const Array& x) { return x.Slice(1, 0, kPast); }
  static Array New(const Array& x) { return x.Slice(1, kPast, kT); }
};
INSTANTIATE_PROPERTIES(MlaTest);

TEST_P(MlaTest, IsSoftmaxAttentionOnExpandedKeysAndValues) {
  ExpectSame(Mla(), Explicit(q_, c_, rope_));
  ExpectSame(Mla().Set("scale", 0.8), Explicit(q_, c_, rope_).Set("scale", 0.8));
  ExpectSame(Mla().Set("window", 7), Explicit(q_, c_, rope_).Set("window_left", 6));
}

TEST_P(MlaTest, WithoutRopeChannelsContentIsAll) {
  const Array q = Normal({kB, kS, kH, kDn});
  ExpectSame(Call("mla").In("q", q).In("c", c_).In("w_kv_b", w_),
             Call("softmax_attention")
                 .In("q", q)
                 .In("k", Project(c_, 0, kDn))
                 .In("v", Project(c_, kDn, kDv))
                 .Set("causal", true));
}

TEST_P(MlaTest, RotationInsideEqualsOutside) {
  for (const bool interleaved : {false, true}) {
    for (const double theta : {10000.0, 50.0}) {
      const CallBuilder inside =
          Mla().Set("rope", interleaved ? "interleaved" : "half").Set("rope_theta", theta);
      const Array rope = Turned(rope_, interleaved, theta);
      ExpectSame(inside, Explicit(Turned(q_, interleaved, theta), c_, rope));
      ExpectClose(Out(inside, "final_state_r"), rope);
    }
  }
}

TEST_P(MlaTest, NormalisationInsideEqualsOutside) {
  const Array weight = Normal({kR});
  Array normalised = c_;
  for (int64_t i = 0; i < kB * kS; ++i) {
    double* row = &normalised.values()[static_cast<size_t>(i * kR)];
    const double root = std::sqrt(Dot(row, row, kR) / kR + 0.01);
    for (int64_t r = 0; r < kR; ++r) row[r] *= weight(r) / root;
  }
  const CallBuilder inside = Mla().In("kv_norm_weight", weight).Set("norm_eps", 0.01);
  ExpectSame(inside, Mla(q_, normalised, rope_));
  ExpectClose(Out(inside, "final_state_c"), normalised);
}

TEST_P(MlaTest, CutAnywhereItEqualsTheWholeAndTheCacheGrows) {
  const auto call = [this](int64_t begin, int64_t end) {
    const auto part = [=](const Array& x) { return x.Slice(1, begin, end - begin); };
    return Mla(part(q_), part(c_), part(rope_))
        .In("kv_norm_weight", Array({kR}, 0.7))
        .Set("rope", "half")
        .Set("window", 40);
  };
  const Evaluation whole = Run(call(0, kS));
  for (const int64_t cut : {int64_t{1}, kPast, kS - 1}) {
    SCOPED_TRACE(cut);
    const Evaluation first = Run(call(0, cut));
    const Evaluation second = Run(call(cut, kS)
                                      .Put("initial_state_c", Output(first, "final_state_c"))
                                      .Put("initial_state_r", Output(first, "final_state_r")));
    const Array parts[] = {Array(Output(first, "o")), Array(Output(second, "o"))};
    ExpectClose(Concatenate(parts, 1), Array(Output(whole, "o")));
    for (const char* state : {"final_state_c", "final_state_r"}) {
      ExpectClose(Array(Output(second, state)), Array(Output(whole, state)));
    }
  }
}

TEST_P(MlaTest, AbsorbedEqualsExpanded) {
  if (GetParam().device != Device::kCpu || exact()) GTEST_SKIP() << "float32 kernels of the CPU";
  // Few enough tokens behind the cache for the absorbed form.
  const auto few = [](const Array& x) { return x.Slice(1, kPast, 10); };
  const auto with = [&](const char* kernel, int64_t window) {
    CallBuilder call = Mla(few(q_), few(c_), few(rope_))
                           .In("initial_state_c", Past(c_))
                           .In("initial_state_r", Past(rope_));
    if (window > 0) call.Set("window", window);
    CallRequest request = call.request();
    request.kernel = kernel;
    const Evaluation ran = RunRequest(request);
    EXPECT_EQ(ran.kernel, kernel);
    return Array(Output(ran, "o"));
  };
  for (const int64_t window : {0, 9, 60}) {
    const Array composed = with("composed", window);
    ExpectClose(with("absorbed_cpu", window), composed);
    ExpectClose(with("expanded_cpu", window), composed);
  }
  // A long cache chooses the absorbed form, a prompt the expanded one.
  const auto chosen = [this](const CallBuilder& call) { return Run(call).kernel; };
  EXPECT_EQ(chosen(Mla(q_.Slice(1, 0, 1), c_.Slice(1, 0, 1), rope_.Slice(1, 0, 1))
                       .In("initial_state_c", c_)
                       .In("initial_state_r", rope_)),
            "absorbed_cpu");
  EXPECT_EQ(chosen(Mla()), "expanded_cpu");
}

TEST_P(MlaTest, LatentsSmallerThanHeadsAreAbsorbedInPromptsAndPacksToo) {
  if (exact()) GTEST_SKIP() << "a choice of kernels";
  const Array c = Normal({1, kS, 4}), w = Normal({kH, kDn + kDv, 4}) * 0.3;
  const auto row = [](const Array& x) { return x.Slice(0, 0, 1); };
  const CallBuilder call =
      Call("mla").In("q", row(q_)).In("c", c).In("k_rope", row(rope_)).In("w_kv_b", w);
  const CallBuilder packed = CallBuilder(call).Offsets({0, 30, 30, static_cast<int32_t>(kS)});
  if (GetParam().device == Device::kCpu) {
    EXPECT_EQ(Run(call).kernel, "absorbed_cpu");
    EXPECT_EQ(Run(packed).kernel, "absorbed_cpu");
  }
  for (const CallBuilder& which : {call, packed}) {
    CallRequest composed = which.request();
    composed.kernel = "composed";
    ExpectClose(Out(which), Array(Output(RunRequest(composed), "o")));
  }
}

TEST_P(MlaTest, AFirstTokenReadsItsOwnValue) {
  const auto first = [](const Array& x) { return x.Slice(1, 0, 1); };
  ExpectClose(Out(Mla(first(q_), first(c_), first(rope_))), Project(first(c_), kDn, kDv));
}

TEST_P(MlaTest, AWindowOfEverythingHidesNothing) {
  ExpectSame(Mla().Set("window", kS), Mla());
  ExpectSame(Mla().Set("window", 1), Mla().Set("window", 1).In("q", q_ * 3));
}

TEST_P(MlaTest, HalfTypesKeepTheCacheInTheirType) {
  if (exact()) GTEST_SKIP() << "types of its own";
  CallRequest request = Mla().In("kv_norm_weight", Array({kR}, 0.7)).request();
  for (auto& [name, tensor] : request.inputs) {
    tensor = FromDoubles(DType::kBFloat16, tensor.shape(), ToDoubles(tensor));
  }
  const Evaluation whole = RunRequest(request);
  EXPECT_EQ(Output(whole, "final_state_c").dtype(), DType::kBFloat16);
  EXPECT_EQ(Output(whole, "final_state_r").dtype(), DType::kBFloat16);
}

TEST_P(MlaTest, RefusesWhatDoesNotFit) {
  ExpectRefused(Mla().In("w_kv_b", Normal({kH, kDn, kR})), "value rows behind the key rows");
  ExpectRefused(Mla().In("w_kv_b", Normal({kH, kDn + kDv, kR + 1})), "w_kv_b: given");
  ExpectRefused(Mla().In("k_rope", Normal({kB, kS, 5})).Set("rope", "half"), "channels in pairs");
  ExpectRefused(Mla().In("k_rope", Normal({kB, kS, kDn + kDr})), "content channels");
  ExpectRefused(Mla().In("initial_state_c", Past(c_)), "initial_state_r: missing");
  ExpectRefused(Mla().In("initial_state_r", Past(rope_)), "initial_state_r: given, expected only");
  ExpectRefused(Mla().In("initial_state_c", Past(c_)).In("initial_state_r", New(rope_)),
                "S0=23 (initial_state_r)");
  ExpectRefused(Mla().Set("window", 0), "window: given 0");
  ExpectRefused(Mla().Set("rope", "full"), "interleaved");
  const auto row = [](const Array& x) { return x.Slice(0, 0, 1); };
  ExpectRefused(Mla(row(q_), row(c_), row(rope_))
                    .Offsets({0, static_cast<int32_t>(kS)})
                    .In("initial_state_c", row(c_))
                    .In("initial_state_r", row(rope_)),
                "initial_state_c: given, expected only if !has(cu_seqlens)");
}

}  // namespace
}  // namespace attnd::testing
