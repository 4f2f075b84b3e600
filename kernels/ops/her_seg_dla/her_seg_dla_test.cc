// What linear attention between two gates promises.
#include <cmath>

#include "kernels/testing/pairwise_mean.h"
#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kHeight = 5, kWidth = 9, kT = kHeight * kWidth, kH = 2, kK = 8, kV = 6,
                  kC = kH * kV, kR = 3;

class HerSegDlaTest : public PropertyTest {
 protected:
  CallBuilder Dla(const Array& q, const Array& k) const {
    return Call("her_seg_dla").In("q", q).In("k", k).Set("height", kHeight).Set("width", kWidth);
  }
  CallBuilder Filtered(const Array& expand_weight) const {
    return Dla(q_, k_)
        .In("x", x_)
        .In("squeeze_weight", squeeze_)
        .In("squeeze_bias", squeeze_bias_)
        .In("expand_weight", expand_weight)
        .In("expand_bias", expand_bias_);
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV}), x_ = Normal({kB, kT, kC});
  const Array squeeze_ = Normal({kR, kC}), squeeze_bias_ = Normal({kR}), expand_ = Normal({kC, kR}),
              expand_bias_ = Normal({kC});
};
INSTANTIATE_PROPERTIES(HerSegDlaTest);

TEST_P(HerSegDlaTest, ConstantValuesComeBack) {
  const Array o = Out(Filtered(Array({kC, kR})).Set("rope", "none").Set("eps", 0.0));
  Array expected({kB, kT, kH, kV});
  for (size_t i = 0; i < expected.values().size(); ++i) {
    expected.values()[i] = expand_bias_.values()[i % kC];
  }
  ExpectClose(o, expected);
}

TEST_P(HerSegDlaTest, AClosedGateGivesNothing) {
  const Array o = Out(Dla(q_, k_).In("v", v_).In("gate", Array(v_.shape(), -1e4)));
  for (const double x : o.values()) EXPECT_EQ(x, 0);
}

TEST_P(HerSegDlaTest, TheGateIsItsSilu) {
  const Array gate = Normal(v_.shape());
  const Array open = gate.Map([](double g) { return g / (1 + std::exp(-g)); });
  ExpectClose(Out(Dla(q_, k_).In("v", v_).In("gate", gate)), Out(Dla(q_, k_).In("v", v_)) * open);
}

TEST_P(HerSegDlaTest, PositionsCountAsOffsets) {
  // Weights of a query and a key that stand elsewhere, at the same offset: the normaliser sees all
  // tokens in any order, so tokens change places and the others are equal among themselves.
  const Array fill_q = Normal({kB, 1, kH, kK}), fill_k = Normal({kB, 1, kH, kK});
  const auto weight = [&](int64_t query, int64_t key) {
    const std::vector<int64_t> same(kT, 0);
    Array q = fill_q.Take(1, same), k = fill_k.Take(1, same), v({kB, kT, kH, 1});
    for (int64_t b = 0; b < kB; ++b) {
      for (int64_t h = 0; h < kH; ++h) {
        for (int64_t c = 0; c < kK; ++c) {
          q(b, query, h, c) = q_(b, 0, h, c);
          k(b, key, h, c) = k_(b, 0, h, c);
        }
        v(b, key, h, 0) = 1;
      }
    }
    return Out(Dla(q, k).In("v", v)).Slice(1, query, 1);
  };
  const Array here = weight(0 * kWidth + 1, 2 * kWidth + 4);
  ExpectClose(weight(2 * kWidth + 5, 4 * kWidth + 8), here);
  EXPECT_GT(RelativeError(weight(2 * kWidth + 4, 0 * kWidth + 1), here), 1e-3);
}

TEST_P(HerSegDlaTest, WithoutPositionsItIsLinfusion) {
  ExpectClose(Out(Dla(q_, k_).In("v", v_).Set("rope", "none")),
              Out(Call("linfusion").In("q", q_).In("k", k_).In("v", v_).Set("eps", 1e-6)));
}

TEST_P(HerSegDlaTest, FormsItsValues) {
  Array v({kB, kT, kH, kV});
  for (int64_t row = 0; row < kB * kT; ++row) {
    for (int64_t c = 0; c < kC; ++c) {
      double sum = expand_bias_(c);
      for (int64_t r = 0; r < kR; ++r) {
        const double s =
            squeeze_bias_(r) + Dot(&squeeze_.values()[r * kC], &x_.values()[row * kC], kC);
        sum += expand_(c, r) * s / (1 + std::exp(-s));
      }
      v.values()[row * kC + c] = sum;
    }
  }
  const Array weight = Normal({kC, 3, 3});
  ExpectClose(Out(Filtered(expand_).In("lepe_weight", weight)),
              Out(Dla(q_, k_).In("v", v).In("lepe_weight", weight)));
}

TEST_P(HerSegDlaTest, RefusesWhatDoesNotFit) {
  ExpectRefused(Dla(q_, k_), "v: missing");
  ExpectRefused(Filtered(expand_).In("v", v_), "v: given, expected only if !has(x)");
  ExpectRefused(Dla(q_, k_).In("x", x_).In("squeeze_weight", squeeze_), "squeeze_bias: missing");
  ExpectRefused(Dla(q_, k_).In("v", v_).In("expand_bias", expand_bias_), "expand_bias: given");
  ExpectRefused(Dla(q_, k_).In("v", v_).Set("scale", 1.0), "scale");
  ExpectRefused(Dla(q_, k_).In("v", v_).Set("width", 8), "height * width");
  ExpectRefused(Call("her_seg_dla").In("q", q_).In("k", k_).In("v", v_), "height and width");
  const Array odd = Normal({kB, kT, kH, 3});
  ExpectRefused(Dla(odd, odd).In("v", v_), "multiple of 4");
  const Array three = Normal({kB, kT, 3, 4});
  ExpectRefused(Filtered(expand_).In("x", Normal({kB, kT, 13})), "x: given [2,45,13]");
  ExpectRefused(Dla(three, three)
                    .In("x", Normal({kB, kT, 13}))
                    .In("squeeze_weight", Normal({kR, 13}))
                    .In("squeeze_bias", squeeze_bias_)
                    .In("expand_weight", Normal({13, kR}))
                    .In("expand_bias", Normal({13})),
                "multiple of the heads");
}

}  // namespace
}  // namespace attnd::testing
