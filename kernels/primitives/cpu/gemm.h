// Small matrix products of CPU kernels: row-major, float32 or float64, compiled per shape by
// libxsmm and kept.
#ifndef ATTND_KERNELS_PRIMITIVES_CPU_GEMM_H_
#define ATTND_KERNELS_PRIMITIVES_CPU_GEMM_H_

#include <cstdint>

namespace attnd::cpu {

// c[m,n] = a[m,k] b[k,n], or c += with `accumulate`. Row-major; lda, ldb, ldc are row lengths in
// memory (>= k, n, n). c must not overlap a or b. m, n or k of 0 is legal. The order of summation
// of an element depends on (m, n, k) alone, never on the data or on threads; libxsmm 1.17 sums
// small products (2 x 16, 6 x 6) otherwise than large ones, so m and n must not hang on what may
// not change an element's bits. Single-threaded: callers parallelise outside.
void Gemm(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb,
          float* c, int64_t ldc, bool accumulate);
void Gemm(int64_t m, int64_t n, int64_t k, const double* a, int64_t lda, const double* b,
          int64_t ldb, double* c, int64_t ldc, bool accumulate);

// b[n,m] = transpose of a[m,n].
void Transpose(int64_t m, int64_t n, const float* a, int64_t lda, float* b, int64_t ldb);
void Transpose(int64_t m, int64_t n, const double* a, int64_t lda, double* b, int64_t ldb);

}  // namespace attnd::cpu

#endif  // ATTND_KERNELS_PRIMITIVES_CPU_GEMM_H_
