// MatMul, SolveUnitLower.
#include <algorithm>

#include "kernels/primitives/cpu/gemm.h"
#include "kernels/primitives/cpu/primitives_cpu.h"
#include "kernels/primitives/cpu/strided.h"

namespace attnd::cpu {
namespace {

// Rows of an output that one task computes.
constexpr int64_t kRowBlock = 64;

// A matrix as Gemm wants it: rows of consecutive elements. Copied to scratch where the view is
// otherwise.
template <typename T>
struct Rows {
  const T* data;
  int64_t stride;
};

template <typename T>
Rows<T> AsRows(const T* data, int64_t m, int64_t n, int64_t row_stride, int64_t column_stride,
               Scratch& scratch) {
  // A single row or column may have any stride along its axis of size 1.
  if ((column_stride == 1 || n == 1) && (row_stride >= n || m == 1)) {
    return {data, m == 1 ? n : row_stride};
  }
  T* copy = scratch.Take<T>(m * n);
  if (row_stride == 1 && column_stride >= m) {
    Transpose(n, m, data, column_stride, copy, n);
    return {copy, n};
  }
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) copy[i * n + j] = data[i * row_stride + j * column_stride];
  }
  return {copy, n};
}

template <typename T>
void MultiplyBlock(const T* a, int64_t a_row, int64_t a_column, const T* b, int64_t b_row,
                   int64_t b_column, T* c, int64_t c_row, int64_t c_column, int64_t m, int64_t n,
                   int64_t k, T alpha, T beta) {
  Scratch scratch;
  const Rows<T> left = AsRows(a, m, k, a_row, a_column, scratch);
  const Rows<T> right = AsRows(b, k, n, b_row, b_column, scratch);
  // Plain products go straight to the output; anything else through a block of scratch.
  if (alpha == T(1) && (beta == T(0) || beta == T(1)) && c_column == 1 && c_row >= n) {
    Gemm(m, n, k, left.data, left.stride, right.data, right.stride, c, c_row, beta == T(1));
    return;
  }
  T* block = scratch.Take<T>(m * n);
  Gemm(m, n, k, left.data, left.stride, right.data, right.stride, block, n, false);
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      T& out = c[i * c_row + j * c_column];
      out = alpha * block[i * n + j] + (beta == T(0) ? T(0) : beta * out);
    }
  }
}

// Strides of the leading axes of a matrix view, broadcast over `batch`.
Dims BatchStrides(const Tensor& matrix, const Dims& batch) {
  Dims shape = batch;
  shape.push_back(matrix.dim(-2));
  shape.push_back(matrix.dim(-1));
  Dims strides = matrix.Expand(shape).strides();
  strides.resize(batch.size());
  return strides;
}

}  // namespace

void MatMul(const Tensor& a, const Tensor& b, const Tensor& out, double alpha, double beta) {
  const int64_t m = out.dim(-2);
  const int64_t n = out.dim(-1);
  const int64_t k = a.dim(-1);
  if (out.num_elements() == 0) return;
  if (a.dtype() != out.dtype() || b.dtype() != out.dtype() || b.dim(-2) != k || a.dim(-2) != m ||
      b.dim(-1) != n) {
    PrimitiveBug("MatMul", a);
  }
  if (k == 0) {
    if (beta == 0) return Fill(0, out);
    const Tensor factor = HostTensor<double>({1}, {beta});
    Tensor converted = AllocateHost(out.dtype(), {1}).value();
    Copy(factor, converted);
    return Binary(BinaryOp::kMul, out, converted, out);
  }
  const Dims batch(out.shape().begin(), out.shape().end() - 2);
  const Dims strides[3] = {BatchStrides(a, batch), BatchStrides(b, batch),
                           BatchStrides(out, batch)};
  int64_t matrices = 1;
  for (int64_t size : batch) matrices *= size;
  const int64_t blocks = (m + kRowBlock - 1) / kRowBlock;
  const double work =
      2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
  WithComputeType("MatMul", out, [&](auto t) {
    using T = decltype(t);
    ParallelFor(matrices * blocks, work * static_cast<double>(matrices), [&](int64_t task) {
      const int64_t row = task % blocks * kRowBlock;
      int64_t rest = task / blocks;
      int64_t offsets[3] = {row * a.stride(-2), 0, row * out.stride(-2)};
      for (size_t axis = batch.size(); axis-- > 0;) {
        const int64_t index = rest % batch[axis];
        rest /= batch[axis];
        for (int i = 0; i < 3; ++i) offsets[i] += index * strides[i][axis];
      }
      MultiplyBlock<T>(
          a.data<T>() + offsets[0], a.stride(-2), a.stride(-1), b.data<T>() + offsets[1],
          b.stride(-2), b.stride(-1), out.data<T>() + offsets[2], out.stride(-2), out.stride(-1),
          std::min(kRowBlock, m - row), n, k, static_cast<T>(alpha), static_cast<T>(beta));
    });
  });
}

void SolveUnitLower(const Tensor& a, const Tensor& b, const Tensor& out) {
  const int64_t n = out.dim(-2);
  if (out.raw() != b.raw()) Copy(b, out);
  // Row r: out_r -= sum over s < r of a_rs out_s.
  for (int64_t r = 1; r < n; ++r) {
    MatMul(a.Slice(-2, r, 1).Slice(-1, 0, r), out.Slice(-2, 0, r), out.Slice(-2, r, 1), -1, 1);
  }
}

}  // namespace attnd::cpu
