// Softmax attention written out, for the properties of everything that restricts it; and the
// merging of two results through their log-sums.
#ifndef ATTND_KERNELS_TESTING_DENSE_ATTENTION_H_
#define ATTND_KERNELS_TESTING_DENSE_ATTENTION_H_

#include <cmath>
#include <functional>
#include <limits>

#include "kernels/testing/array.h"

namespace attnd::testing {

struct Attended {
  Array o;    // [B,T,H,V]
  Array lse;  // [B,T,H]
};

// Every query over the keys that `allowed` grants it, scale 1/sqrt(K); q [B,T,H,K], k [B,S,HK,K],
// v [B,S,HV,V].
inline Attended DenseAttention(const Array& q, const Array& k, const Array& v,
                               const std::function<bool(int64_t i, int64_t j)>& allowed) {
  const int64_t batch = q.dim(0), rows = q.dim(1), heads = q.dim(2), size = q.dim(3);
  const int64_t keys = k.dim(1), values = v.dim(3);
  Attended out{Array({batch, rows, heads, values}),
               Array({batch, rows, heads}, -std::numeric_limits<double>::infinity())};
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t hk = h * k.dim(2) / heads, hv = h * v.dim(2) / heads;
        double sum = 0;
        for (int64_t j = 0; j < keys; ++j) {
          if (!allowed(i, j)) continue;
          double logit = 0;
          for (int64_t c = 0; c < size; ++c) logit += q(b, i, h, c) * k(b, j, hk, c);
          const double weight = std::exp(logit / std::sqrt(static_cast<double>(size)));
          sum += weight;
          for (int64_t c = 0; c < values; ++c) out.o(b, i, h, c) += weight * v(b, j, hv, c);
        }
        if (sum == 0) continue;
        for (int64_t c = 0; c < values; ++c) out.o(b, i, h, c) /= sum;
        out.lse(b, i, h) = std::log(sum);
      }
    }
  }
  return out;
}

// Two results over disjoint keys as the result over all of them.
inline Attended Merge(const Attended& x, const Attended& y) {
  Attended out = x;
  const int64_t values = x.o.dim(3);
  for (size_t row = 0; row < x.lse.values().size(); ++row) {
    const double a = x.lse.values()[row], b = y.lse.values()[row];
    const double most = std::max(a, b);
    if (std::isinf(most)) continue;
    const double wa = std::exp(a - most), wb = std::exp(b - most);
    out.lse.values()[row] = most + std::log(wa + wb);
    for (size_t c = row * values; c < (row + 1) * values; ++c) {
      out.o.values()[c] = (wa * x.o.values()[c] + wb * y.o.values()[c]) / (wa + wb);
    }
  }
  return out;
}

}  // namespace attnd::testing

#endif  // ATTND_KERNELS_TESTING_DENSE_ATTENTION_H_
