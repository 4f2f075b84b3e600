// What convolved queries and keys under a gated recurrence promise.
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kT = 39, kH = 2, kK = 5, kF = 3, kV = 4, kC = 4;

class LawcatTest : public PropertyTest {
 protected:
  CallBuilder Lawcat(const Array& q, const Array& k, const Array& v, const Array& gate) {
    return Call("lawcat")
        .In("q", q)
        .In("k", k)
        .In("v", v)
        .In("gate", gate)
        .In("w_q", w_q_)
        .In("w_k", w_k_)
        .In("conv_q", conv_q_)
        .In("conv_k", conv_k_);
  }
  CallBuilder Lawcat() { return Lawcat(q_, k_, v_, gate_); }
  // x convolved over time.
  static Array Convolved(const Array& x, const Array& taps) {
    Array y(x.shape());
    for (int64_t b = 0; b < kB; ++b) {
      for (int64_t t = 0; t < kT; ++t) {
        for (int64_t h = 0; h < kH; ++h) {
          for (int64_t i = 0; i < kK; ++i) {
            for (int64_t c = 0; c < kC; ++c) {
              const int64_t from = t - kC + 1 + c;
              if (from >= 0) y(b, t, h, i) += taps(h, i, c) * x(b, from, h, i);
            }
          }
        }
      }
    }
    return y;
  }

  const Array q_ = Normal({kB, kT, kH, kK}), k_ = Normal({kB, kT, kH, kK}),
              v_ = Normal({kB, kT, kH, kV}), gate_ = Normal({kB, kT, kH, 2 * kF}),
              w_q_ = Normal({kH, kK, kF}) * 0.4, w_k_ = Normal({kH, kK, kF}) * 0.4,
              conv_q_ = Normal({kH, kK, kC}), conv_k_ = Normal({kH, kK, kC});
};
INSTANTIATE_PROPERTIES(LawcatTest);

TEST_P(LawcatTest, UnitTapsAndOpenGatesAreHedgehog) {
  Array unit({kH, kK, kC});
  for (int64_t h = 0; h < kH; ++h) {
    for (int64_t i = 0; i < kK; ++i) unit(h, i, kC - 1) = 1;
  }
  ExpectClose(
      Out(Lawcat(q_, k_, v_, Array({kB, kT, 1, 1}, 1e4))
              .In("conv_q", unit)
              .In("conv_k", unit)
              .Set("eps", 0.0)),
      Out(Call("hedgehog").In("q", q_).In("k", k_).In("v", v_).In("w_q", w_q_).In("w_k", w_k_)));
}

TEST_P(LawcatTest, IsItsQuadraticForm) {
  const Array q = Convolved(q_, conv_q_), k = Convolved(k_, conv_k_);
  const auto features = [&](const Array& x, const Array& w, int64_t b, int64_t t, int64_t h) {
    std::vector<double> phi(2 * kF);
    double up = 0, down = 0;
    for (int64_t f = 0; f < kF; ++f) {
      double y = 0;
      for (int64_t i = 0; i < kK; ++i) y += x(b, t, h, i) * w(h, i, f);
      up += phi[f] = std::exp(y);
      down += phi[kF + f] = std::exp(-y);
    }
    for (int64_t f = 0; f < kF; ++f) phi[f] /= up, phi[kF + f] /= down;
    return phi;
  };
  Array o(v_.shape());
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t h = 0; h < kH; ++h) {
      for (int64_t t = 0; t < kT; ++t) {
        const std::vector<double> phi_q = features(q, w_q_, b, t, h);
        std::vector<double> decay(2 * kF);
        double total = 0;
        for (int64_t s = t; s >= 0; --s) {
          const std::vector<double> phi_k = features(k, w_k_, b, s, h);
          double weight = 0;
          for (int64_t f = 0; f < 2 * kF; ++f) weight += phi_q[f] * phi_k[f] * std::exp(decay[f]);
          total += weight;
          for (int64_t j = 0; j < kV; ++j) o(b, t, h, j) += weight * v_(b, s, h, j);
          for (int64_t f = 0; f < 2 * kF; ++f) {
            decay[f] -= std::log1p(std::exp(-gate_(b, s, h, f))) / 2;
          }
        }
        for (int64_t j = 0; j < kV; ++j) o(b, t, h, j) /= total;
      }
    }
  }
  ExpectClose(Out(Lawcat().Set("gate_normalizer", 2.0).Set("eps", 0.0)), o);
}

TEST_P(LawcatTest, EqualValuesComeBack) {
  const Array ones(v_.shape(), 1);
  ExpectClose(Out(Lawcat(q_, k_, ones, gate_)), ones);
}

TEST_P(LawcatTest, TheScaleCancels) {
  const Array plain = Out(Lawcat().Set("scale", 1.0));
  EXPECT_LE(RelativeError(Out(Lawcat().Set("scale", 8.0)), plain), exact() ? 1e-8 : 4e-5);
}

TEST_P(LawcatTest, SplitsMayBeShorterThanTheTaps) {
  const Array whole = Out(Lawcat());
  std::vector<Array> parts;
  Evaluation last;
  int64_t begin = 0;
  for (const int64_t count : {int64_t{1}, int64_t{2}, int64_t{1}, kT - 4}) {
    const auto cut = [&](const Array& x) { return x.Slice(1, begin, count); };
    CallBuilder call = Lawcat(cut(q_), cut(k_), cut(v_), cut(gate_));
    for (const auto& [name, tensor] : last.outputs) {
      if (const std::string state = name; state.substr(0, 6) == "final_") {
        call.Put("initial_" + state.substr(6), tensor);
      }
    }
    last = Run(call);
    parts.emplace_back(Output(last, "o"));
    begin += count;
  }
  ExpectClose(Concatenate(parts, 1), whole);
}

TEST_P(LawcatTest, PackedSequencesBeginWithoutAPast) {
  const auto row = [](const Array& x) { return x.Slice(0, 0, 1); };
  const auto tail = [](const Array& x) { return x.Slice(0, 0, 1).Slice(1, 20, kT - 20); };
  ExpectClose(
      Out(Lawcat(row(q_), row(k_), row(v_), row(gate_)).Offsets({0, 20, kT})).Slice(1, 20, kT - 20),
      Out(Lawcat(tail(q_), tail(k_), tail(v_), tail(gate_))));
}

TEST_P(LawcatTest, RefusesWhatDoesNotFit) {
  ExpectRefused(Lawcat(q_, k_, v_, Normal({kB, kT, kH, 2 * kF - 1})), "a gate for each feature");
  ExpectRefused(Lawcat().In("conv_k", Normal({kH, kK, kC + 1})), "conv_k: given [2,5,5]");
  const Array no_taps({kH, kK, 0});
  ExpectRefused(Lawcat().In("conv_q", no_taps).In("conv_k", no_taps), "a size of 0 for C");
  ExpectRefused(Lawcat().In("initial_state", Normal({kB, kH, 2 * kF, kV})),
                "all of the state, or none of it");
  ExpectRefused(Lawcat().In("initial_state_conv_q", Normal({kB, kH, kK, kC - 1})),
                "all of the state, or none of it");
}

}  // namespace
}  // namespace attnd::testing
