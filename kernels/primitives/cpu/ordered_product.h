// Matrix products whose every element is one chain of fused multiply-adds in the order of the inner
// index: c_ij = fma(a_ik, b_kj, ...fma(a_i1, b_1j, fma(a_i0, b_0j, c_ij or 0))). The bits of an
// element are a function of its row and its column alone: not of the other rows of the call, of the
// number of columns, of threads, or of the vector width. What decodes one token and what reads a
// whole prompt agree for that reason.
#ifndef ATTND_KERNELS_PRIMITIVES_CPU_ORDERED_PRODUCT_H_
#define ATTND_KERNELS_PRIMITIVES_CPU_ORDERED_PRODUCT_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/core/tensor.h"

namespace attnd::cpu {

// c[m,n] = a[m,k] b[k,n], or c += with `accumulate`; row-major, lda, ldb, ldc row lengths in
// memory. c must not overlap a or b. Any size may be 0. Single-threaded.
void OrderedProduct(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b,
                    int64_t ldb, float* c, int64_t ldc, bool accumulate);

// A weight matrix W [outputs, inputs] of float32, float16 or bfloat16, laid out for products with
// few or many rows. Weights of half precision stay so in memory (float16 widened to float32) and
// are widened as they are read, which is exact. Immutable; safe from many threads.
class PackedMatrix {
 public:
  PackedMatrix() = default;
  // Copies matrices [outputs_i, inputs], stacked: contiguous host tensors of rank 2. Of different
  // types, all are widened to float32. INVALID_ARGUMENT for another rank, type or width,
  // RESOURCE_EXHAUSTED without memory.
  static absl::StatusOr<PackedMatrix> Pack(absl::Span<const Tensor> weights);

  // The way back: W [outputs, inputs], of bfloat16, or float32 where it was widened.
  absl::StatusOr<Tensor> Unpack() const;

  int64_t outputs() const { return outputs_; }
  int64_t inputs() const { return inputs_; }
  int64_t byte_size() const { return panels_.defined() ? panels_.byte_size() : 0; }

  // y_i = W x_i for `rows` rows x [rows, inputs], contiguous -> y [rows, outputs], `stride` apart;
  // spread over the threads of the process.
  void Multiply(const float* x, int64_t rows, float* y, int64_t stride) const;
  void Multiply(const float* x, int64_t rows, float* y) const { Multiply(x, rows, y, outputs_); }

 private:
  int64_t outputs_ = 0;
  int64_t inputs_ = 0;
  Tensor panels_;  // [panels, inputs, kPanel]: columns of W^T side by side.
};

}  // namespace attnd::cpu

#endif  // ATTND_KERNELS_PRIMITIVES_CPU_ORDERED_PRODUCT_H_
