#include "kernels/primitives/cpu/gemm.h"

#include <libxsmm.h>

#include <algorithm>

namespace attnd::cpu {
namespace {

// Blocks of one compiled kernel. Long sums are cut at fixed places, so that an element's order of
// summation is a function of the shape alone; rows and columns are cut to keep the set of compiled
// shapes small.
constexpr int64_t kRows = 64;
constexpr int64_t kColumns = 256;
constexpr int64_t kDepth = 256;

// On AVX-512 the library sums a block of one vector's width in several interleaved parts if it has
// from 2 to 11 rows, and so would a product whose last columns are such a block; everything else it
// sums in order of k.
constexpr int64_t kVectorBytes = 64;
constexpr int64_t kFewRows = 12;

libxsmm_smmfunction Dispatch(libxsmm_blasint m, libxsmm_blasint n, libxsmm_blasint k,
                             libxsmm_blasint lda, libxsmm_blasint ldb, libxsmm_blasint ldc,
                             const float* beta) {
  return libxsmm_smmdispatch(m, n, k, &lda, &ldb, &ldc, nullptr, beta, nullptr, nullptr);
}

libxsmm_dmmfunction Dispatch(libxsmm_blasint m, libxsmm_blasint n, libxsmm_blasint k,
                             libxsmm_blasint lda, libxsmm_blasint ldb, libxsmm_blasint ldc,
                             const double* beta) {
  return libxsmm_dmmdispatch(m, n, k, &lda, &ldb, &ldc, nullptr, beta, nullptr, nullptr);
}

template <typename T>
void PlainBlock(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb,
                T* c, int64_t ldc, bool accumulate) {
  for (int64_t i = 0; i < m; ++i) {
    T* row = c + i * ldc;
    if (!accumulate) std::fill(row, row + n, T(0));
    for (int64_t l = 0; l < k; ++l) {
      const T factor = a[i * lda + l];
      const T* other = b + l * ldb;
      for (int64_t j = 0; j < n; ++j) row[j] += factor * other[j];
    }
  }
}

template <typename T>
void Block(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb, T* c,
           int64_t ldc, bool accumulate) {
  constexpr int64_t kMost = int64_t{1} << 30;
  if (lda < kMost && ldb < kMost && ldc < kMost) {
    // The library is column-major: a row-major product is the same product with its operands
    // exchanged.
    const T beta = accumulate ? T(1) : T(0);
    const auto kernel =
        Dispatch(static_cast<libxsmm_blasint>(n), static_cast<libxsmm_blasint>(m),
                 static_cast<libxsmm_blasint>(k), static_cast<libxsmm_blasint>(ldb),
                 static_cast<libxsmm_blasint>(lda), static_cast<libxsmm_blasint>(ldc), &beta);
    if (kernel != nullptr) return kernel(b, a, c);
  }
  PlainBlock(m, n, k, a, lda, b, ldb, c, ldc, accumulate);
}

// As Block, with an order of summation that depends on k alone.
template <typename T>
void OrderedBlock(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb,
                  T* c, int64_t ldc, bool accumulate) {
  constexpr auto kVector = kVectorBytes / static_cast<int64_t>(sizeof(T));
  const int64_t tail = n % (4 * kVector);
  if (tail > 0 && tail <= kVector) {
    const int64_t wide = n - tail;
    const int64_t step = m < kFewRows ? 1 : m;
    for (int64_t i = 0; i < m; i += step) {
      Block(step, tail, k, a + i * lda, lda, b + wide, ldb, c + i * ldc + wide, ldc, accumulate);
    }
    n = wide;
  }
  if (n > 0) Block(m, n, k, a, lda, b, ldb, c, ldc, accumulate);
}

template <typename T>
void Multiply(int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b, int64_t ldb,
              T* c, int64_t ldc, bool accumulate) {
  if (m == 0 || n == 0) return;
  if (k == 0) {
    if (!accumulate) {
      for (int64_t i = 0; i < m; ++i) std::fill(c + i * ldc, c + i * ldc + n, T(0));
    }
    return;
  }
  for (int64_t l = 0; l < k; l += kDepth) {
    const int64_t depth = std::min(kDepth, k - l);
    for (int64_t i = 0; i < m; i += kRows) {
      for (int64_t j = 0; j < n; j += kColumns) {
        OrderedBlock(std::min(kRows, m - i), std::min(kColumns, n - j), depth, a + i * lda + l, lda,
                     b + l * ldb + j, ldb, c + i * ldc + j, ldc, accumulate || l > 0);
      }
    }
  }
}

template <typename T>
void TransposeInto(int64_t m, int64_t n, const T* a, int64_t lda, T* b, int64_t ldb) {
  constexpr int64_t kTile = 8;
  for (int64_t i = 0; i < m; i += kTile) {
    const int64_t rows = std::min(kTile, m - i);
    for (int64_t j = 0; j < n; j += kTile) {
      const int64_t columns = std::min(kTile, n - j);
      for (int64_t y = 0; y < columns; ++y) {
        for (int64_t x = 0; x < rows; ++x) b[(j + y) * ldb + i + x] = a[(i + x) * lda + j + y];
      }
    }
  }
}

}  // namespace

void Gemm(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb,
          float* c, int64_t ldc, bool accumulate) {
  Multiply(m, n, k, a, lda, b, ldb, c, ldc, accumulate);
}

void Gemm(int64_t m, int64_t n, int64_t k, const double* a, int64_t lda, const double* b,
          int64_t ldb, double* c, int64_t ldc, bool accumulate) {
  Multiply(m, n, k, a, lda, b, ldb, c, ldc, accumulate);
}

void Transpose(int64_t m, int64_t n, const float* a, int64_t lda, float* b, int64_t ldb) {
  TransposeInto(m, n, a, lda, b, ldb);
}

void Transpose(int64_t m, int64_t n, const double* a, int64_t lda, double* b, int64_t ldb) {
  TransposeInto(m, n, a, lda, b, ldb);
}

}  // namespace attnd::cpu
