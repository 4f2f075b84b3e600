// Reduce, CumSum.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/primitives/cpu/primitives_cpu.h"
#include "kernels/primitives/cpu/strided.h"

namespace attnd::cpu {
namespace {

// Rows of `out` in order: for every index of out (whose `axis` is 1), x walks `axis`.
// body(x pointer, x stride, count, out pointer); T is the element type.
template <typename T, typename Body>
void ForEachRow(const Tensor& x, int axis, const Tensor& out, Body body) {
  const int64_t count = x.dim(axis);
  const int64_t stride = x.stride(axis) * static_cast<int64_t>(sizeof(T));
  Tensor first = x;
  if (count > 0) {
    first = x.Slice(axis, 0, 1);
  } else {
    first = out;  // Never read.
  }
  StridedLoop<2>(out.shape(), {&first, &out})
      .Run(2.0 * static_cast<double>(count), [&](const auto& at, const auto& strides, int64_t n) {
        for (int64_t i = 0; i < n; ++i) {
          body(at[0] + i * strides[0], stride, count, reinterpret_cast<T*>(at[1] + i * strides[1]));
        }
      });
}

template <typename T>
T At(const char* base, int64_t stride, int64_t i) {
  return *reinterpret_cast<const T*>(base + i * stride);
}

// A sum whose rounding grows with the logarithm of the count: halves are summed apart.
template <typename T>
T PairwiseSum(const char* base, int64_t stride, int64_t n) {
  if (n <= 32) {
    T sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += At<T>(base, stride, i);
    return sum;
  }
  const int64_t half = n / 2;
  return PairwiseSum<T>(base, stride, half) +
         PairwiseSum<T>(base + half * stride, stride, n - half);
}

// Sums over an axis that is not the innermost of contiguous rows: whole rows are added, which runs
// along memory. Only where the axis is long enough for order to matter does the pairwise form above
// win, so rows are added in blocks of 32 pairwise too.
template <typename T>
void AddRows(const T* x, int64_t row_stride, int64_t rows, int64_t width, T* out) {
  std::fill(out, out + width, T(0));
  if (rows <= 32) {
    for (int64_t r = 0; r < rows; ++r) {
      const T* row = x + r * row_stride;
      for (int64_t i = 0; i < width; ++i) out[i] += row[i];
    }
    return;
  }
  const int64_t half = rows / 2;
  Scratch scratch;
  T* other = scratch.Take<T>(width);
  AddRows(x, row_stride, half, width, out);
  AddRows(x + half * row_stride, row_stride, rows - half, width, other);
  for (int64_t i = 0; i < width; ++i) out[i] += other[i];
}

template <typename T>
void SumInto(const Tensor& x, int axis, const Tensor& out) {
  const bool rows_contiguous = axis == x.rank() - 2 && x.stride(-1) == 1 && out.stride(-1) == 1 &&
                               x.dim(-1) > 1 && x.rank() >= 2;
  if (!rows_contiguous) {
    ForEachRow<T>(x, axis, out, [](const char* base, int64_t stride, int64_t n, T* result) {
      *result = PairwiseSum<T>(base, stride, n);
    });
    return;
  }
  const int64_t width = x.dim(-1);
  const int64_t rows = x.dim(axis);
  const Tensor heads = rows > 0 ? x.Slice(axis, 0, 1).Slice(-1, 0, 1) : Tensor();
  if (rows == 0) return Fill(0, out);
  const Tensor out_heads = out.Slice(-1, 0, 1);
  StridedLoop<2>(out_heads.shape(), {&heads, &out_heads})
      .Run(static_cast<double>(rows * width), [&](const auto& at, const auto& strides, int64_t n) {
        for (int64_t i = 0; i < n; ++i) {
          AddRows(reinterpret_cast<const T*>(at[0] + i * strides[0]), x.stride(axis), rows, width,
                  reinterpret_cast<T*>(at[1] + i * strides[1]));
        }
      });
}

}  // namespace

void Reduce(ReduceOp op, const Tensor& x, int axis, const Tensor& out) {
  if (axis < 0) axis += x.rank();
  if (op == ReduceOp::kAny) {
    ForEachRow<bool>(x, axis, out, [](const char* base, int64_t stride, int64_t n, bool* result) {
      bool any = false;
      for (int64_t i = 0; i < n; ++i) any |= At<bool>(base, stride, i);
      *result = any;
    });
    return;
  }
  WithComputeType("Reduce", out, [&](auto t) {
    using T = decltype(t);
    if (op == ReduceOp::kSum) return SumInto<T>(x, axis, out);
    ForEachRow<T>(x, axis, out, [](const char* base, int64_t stride, int64_t n, T* result) {
      T most = -std::numeric_limits<T>::infinity();
      for (int64_t i = 0; i < n; ++i) {
        const T value = At<T>(base, stride, i);
        if (value > most || std::isnan(value)) most = value;
        if (std::isnan(most)) break;
      }
      *result = most;
    });
  });
}

void CumSum(const Tensor& x, int axis, const Tensor& out) {
  if (axis < 0) axis += x.rank();
  const int64_t count = x.dim(axis);
  if (count == 0) return;
  const Tensor x_first = x.Slice(axis, 0, 1);
  const Tensor out_first = out.Slice(axis, 0, 1);
  WithComputeType("CumSum", out, [&](auto t) {
    using T = decltype(t);
    const int64_t x_stride = x.stride(axis);
    const int64_t out_stride = out.stride(axis);
    StridedLoop<2>(out_first.shape(), {&x_first, &out_first})
        .Run(2.0 * static_cast<double>(count), [&](const auto& at, const auto& strides, int64_t n) {
          for (int64_t i = 0; i < n; ++i) {
            const T* from = reinterpret_cast<const T*>(at[0] + i * strides[0]);
            T* to = reinterpret_cast<T*>(at[1] + i * strides[1]);
            double sum = 0;  // Long prefix sums lose digits in float32.
            for (int64_t j = 0; j < count; ++j) {
              sum += from[j * x_stride];
              to[j * out_stride] = static_cast<T>(sum);
            }
          }
        });
  });
}

}  // namespace attnd::cpu
