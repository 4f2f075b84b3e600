// Linear attention pair by pair, for the properties of operators that sum over keys first.
#ifndef ATTND_KERNELS_TESTING_PAIRWISE_MEAN_H_
#define ATTND_KERNELS_TESTING_PAIRWISE_MEAN_H_

#include <algorithm>
#include <cmath>

#include "kernels/testing/array.h"

namespace attnd::testing {

inline Array Elu1(const Array& x) {
  return x.Map([](double a) { return a > 0 ? a + 1 : std::exp(a); });
}

// a_i · b_j of features a [B,T,H,K] and b [B,S,H,K]: [B,T,H,S].
inline Array PairProducts(Array a, Array b) {
  Array products({a.dim(0), a.dim(1), a.dim(2), b.dim(1)});
  for (int64_t n = 0; n < a.dim(0); ++n) {
    for (int64_t i = 0; i < a.dim(1); ++i) {
      for (int64_t h = 0; h < a.dim(2); ++h) {
        for (int64_t j = 0; j < b.dim(1); ++j) {
          products(n, i, h, j) = Dot(&a(n, i, h), &b(n, j, h), a.dim(3));
        }
      }
    }
  }
  return products;
}

// sum_j weights[b,i,h,j] v_j, weights [B,T,H,S] and v [B,S,H,V].
inline Array WeightedSum(const Array& weights, const Array& v) {
  Array o({weights.dim(0), weights.dim(1), weights.dim(2), v.dim(3)});
  for (int64_t n = 0; n < o.dim(0); ++n) {
    for (int64_t i = 0; i < o.dim(1); ++i) {
      for (int64_t h = 0; h < o.dim(2); ++h) {
        for (int64_t j = 0; j < v.dim(1); ++j) {
          for (int64_t c = 0; c < v.dim(3); ++c)
            o(n, i, h, c) += weights(n, i, h, j) * v(n, j, h, c);
        }
      }
    }
  }
  return o;
}

// Rows of the last axis divided by their mean plus eps, and by their number.
inline Array MeanNormalised(Array products, double eps) {
  const int64_t keys = products.dim(3);
  for (size_t row = 0; row < products.values().size(); row += keys) {
    double sum = 0;
    for (int64_t j = 0; j < keys; ++j) sum += products.values()[row + j];
    for (int64_t j = 0; j < keys; ++j) {
      products.values()[row + j] /=
          (sum / static_cast<double>(keys) + eps) * static_cast<double>(keys);
    }
  }
  return products;
}

// The mean over an axis, which is kept with its size, all entries equal.
inline Array MeanOver(const Array& x, int axis) {
  Array mean = x * 0.0;
  for (int64_t i = 0; i < x.dim(axis); ++i) {
    const std::vector<int64_t> same(static_cast<size_t>(x.dim(axis)), i);
    mean = mean + x.Take(axis, same) * (1.0 / static_cast<double>(x.dim(axis)));
  }
  return mean;
}

}  // namespace attnd::testing

#endif  // ATTND_KERNELS_TESTING_PAIRWISE_MEAN_H_
