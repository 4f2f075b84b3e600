// SortDescending.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/primitives/cpu/primitives_cpu.h"
#include "kernels/primitives/cpu/strided.h"

namespace attnd::cpu {
namespace {

template <typename T>
void SortRow(const char* x, int64_t x_stride, char* out, int64_t out_stride, int64_t n) {
  Scratch scratch;
  T* keys = scratch.Take<T>(n);
  int64_t* order = scratch.Take<int64_t>(n);
  for (int64_t i = 0; i < n; ++i) {
    const T value = *reinterpret_cast<const T*>(x + i * x_stride);
    keys[i] = std::isnan(value) ? -std::numeric_limits<T>::infinity() : value;
  }
  std::iota(order, order + n, int64_t{0});
  std::sort(order, order + n, [keys](int64_t a, int64_t b) {
    return keys[a] > keys[b] || (keys[a] == keys[b] && a < b);
  });
  for (int64_t i = 0; i < n; ++i) *reinterpret_cast<int64_t*>(out + i * out_stride) = order[i];
}

}  // namespace

void SortDescending(const Tensor& x, const Tensor& out) {
  if (out.dtype() != DType::kInt64) PrimitiveBug("SortDescending", out);
  const int64_t n = out.dim(-1);
  if (n == 0) return;
  const Tensor x_heads = x.Slice(-1, 0, 1), out_heads = out.Slice(-1, 0, 1);
  const auto bytes = static_cast<int64_t>(SizeOf(x.dtype()));
  const int64_t x_stride = x.stride(-1) * bytes;
  const int64_t out_stride = out.stride(-1) * static_cast<int64_t>(sizeof(int64_t));
  WithComputeType("SortDescending", x, [&](auto t) {
    using T = decltype(t);
    StridedLoop<2>(out_heads.shape(), {&x_heads, &out_heads})
        .Run(20.0 * static_cast<double>(n), [&](const auto& at, const auto& strides, int64_t rows) {
          for (int64_t r = 0; r < rows; ++r) {
            SortRow<T>(at[0] + r * strides[0], x_stride, at[1] + r * strides[1], out_stride, n);
          }
        });
  });
}

}  // namespace attnd::cpu
