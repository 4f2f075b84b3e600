#include "kernels/cores/non_finite.h"

#include <cmath>

#include "kernels/primitives/cpu/vector_math.h"

namespace attnd::cpu {

void NonFinite::TakeOut(float* rows, int64_t n, int64_t width) {
  width_ = width;
  elements_.clear();
  if (AllFiniteRow(rows, n * width)) return;
  for (int64_t row = 0; row < n; ++row) {
    for (int64_t column = 0; column < width; ++column) {
      float& value = rows[row * width + column];
      if (std::isfinite(value)) continue;
      elements_.push_back({row, column, value});
      value = 0;
    }
  }
}

void NonFinite::AddToLaterRows(const float* weights, int64_t stride, int64_t count,
                               float* y) const {
  for (const Element& x : elements_) {
    for (int64_t r = x.row; r < count; ++r) {
      y[r * width_ + x.column] += weights[r * stride + x.row] * x.value;
    }
  }
}

void NonFinite::AddToState(const float* keys, int64_t key_size, float* state) const {
  for (const Element& x : elements_) {
    for (int64_t i = 0; i < key_size; ++i) {
      state[i * width_ + x.column] += keys[x.row * key_size + i] * x.value;
    }
  }
}

}  // namespace attnd::cpu
