// The whole backend interface: memory, and the few dozen functions from which every composed
// definition is written. Each backend implements them once; an operator that uses only these runs
// everywhere.
//
// Conventions. Tensors are strided views of the backend's memory. `out` is written whole and never
// overlaps an input unless it is the same view (element-wise functions may run in place).
// Arithmetic is in the type of `out`: float32 or float64 (the compute types), int64 or bool where
// said. Inputs of element-wise functions broadcast to out's shape by the usual rules (axes of size
// 1 and missing leading axes repeat). Empty tensors are legal. Shapes that do not fit are bugs and
// abort; running out of memory is RESOURCE_EXHAUSTED. Work is queued in order; host memory may be
// read after Download or Synchronize. Every result is a pure function of the inputs of that element
// or row: never of the batch beside it.
#ifndef ATTND_KERNELS_PRIMITIVES_PRIMITIVES_H_
#define ATTND_KERNELS_PRIMITIVES_PRIMITIVES_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/core/tensor.h"

namespace attnd {

enum class UnaryOp : uint8_t {
  kNeg,         // -x
  kAbs,         // |x|
  kExp,         // e^x
  kLog,         // ln x
  kLog1p,       // ln(1 + x)
  kSqrt,        // x^(1/2)
  kReciprocal,  // 1/x
  kSquare,      // x^2
  kSin,
  kCos,
  kTanh,
  kSigmoid,   // 1/(1 + e^-x)
  kSoftplus,  // ln(1 + e^x) = max(x,0) + log1p(e^-|x|)
  kSilu,      // x sigmoid(x)
  kElu1,      // 1 + elu(x) = x + 1 for x > 0, else e^x
  kRelu,      // max(x, 0); NaN stays NaN
  kFloor,
  kErf,
  kGelu,  // x (1 + erf(x / sqrt 2)) / 2
  kNot,   // bool
};

enum class BinaryOp : uint8_t {
  kAdd,
  kSub,
  kMul,
  kDiv,
  kMax,  // NaN if either is NaN
  kMin,
  kPow,
  kMod,   // a - b floor(a/b): the sign of b
  kLess,  // comparisons: out is bool, inputs share any one type
  kLessEqual,
  kEqual,
  kAnd,  // bool
  kOr,   // bool
};

enum class ReduceOp : uint8_t { kSum, kMax, kAny };

class Backend {
 public:
  virtual ~Backend() = default;

  virtual Device device() const = 0;
  // "cpu (AVX2, 2 threads)", "NVIDIA H100 80GB HBM3".
  virtual std::string name() const = 0;

  // Uninitialised memory of this backend. It may be reused as soon as the last view is gone.
  virtual absl::StatusOr<Tensor> Allocate(DType dtype, Dims shape) = 0;
  // Bytes handed out and not returned, and the largest this ever was.
  virtual int64_t allocated_bytes() const = 0;
  virtual int64_t peak_allocated_bytes() const = 0;

  // Host to backend and back; contiguous, equal shapes and types. Download returns when the host
  // memory holds the result.
  virtual absl::Status Upload(const Tensor& host, const Tensor& out) = 0;
  virtual absl::Status Download(const Tensor& in, const Tensor& host) = 0;
  // Returns when all queued work is done, with the first error that any of it had.
  virtual absl::Status Synchronize() = 0;

  // out = x, converted: any types; floating to integer truncates; to bool is x != 0.
  virtual void Copy(const Tensor& x, const Tensor& out) = 0;
  // out = value.
  virtual void Fill(double value, const Tensor& out) = 0;
  // out[i] = start + i step, out of rank 1, float32, float64 or int64.
  virtual void Iota(double start, double step, const Tensor& out) = 0;

  // out = op(x).
  virtual void Unary(UnaryOp op, const Tensor& x, const Tensor& out) = 0;
  // out = a op b.
  virtual void Binary(BinaryOp op, const Tensor& a, const Tensor& b, const Tensor& out) = 0;
  // out = condition ? a : b, condition of type bool.
  virtual void Where(const Tensor& condition, const Tensor& a, const Tensor& b,
                     const Tensor& out) = 0;

  // out = op over `axis`, which has size 1 in out. An empty axis gives 0, -inf or false.
  virtual void Reduce(ReduceOp op, const Tensor& x, int axis, const Tensor& out) = 0;
  // out[.., i, ..] = sum of x[.., 0..i, ..] along axis.
  virtual void CumSum(const Tensor& x, int axis, const Tensor& out) = 0;
  // out[.., i, ..] = softmax over the last axis of x where mask (bool, may be undefined: all)
  // holds; a row with nothing to attend gives zeros. If `lse` is defined ([..,1]) it gets the ln of
  // the sum of exponentials, -inf for an empty row.
  virtual void Softmax(const Tensor& x, const Tensor& mask, const Tensor& out,
                       const Tensor& lse) = 0;

  // out[..,m,n] = alpha sum_k a[..,m,k] b[..,k,n] + beta out. Leading axes broadcast. Strides are
  // free, so a transpose costs nothing. The order of summation over k depends on (m, n, k) alone.
  virtual void MatMul(const Tensor& a, const Tensor& b, const Tensor& out, double alpha,
                      double beta) = 0;
  // out = (I + strict_lower(a))^-1 b by forward substitution in row order; a [..,n,n], b [..,n,m].
  virtual void SolveUnitLower(const Tensor& a, const Tensor& b, const Tensor& out) = 0;

  // out[i, ..] = x[index[i], ..] along axis; index int64 of rank 1, every entry within the axis.
  virtual void Gather(const Tensor& x, const Tensor& index, int axis, const Tensor& out) = 0;
  // out[.., r] = the index within the last axis of x's r-th largest entry; of equal entries the
  // lower index comes first, NaN counts as -inf. out int64, x's shape.
  virtual void SortDescending(const Tensor& x, const Tensor& out) = 0;

  // First-order recurrences along the middle axis, [n,t,d], `initial` [n,d] or undefined:
  //   out[.., i, ..] = factor[.., i, ..] out[.., i-1, ..] + x[.., i, ..], from `initial` or 0;
  virtual void LinearScan(const Tensor& factor, const Tensor& x, const Tensor& initial,
                          const Tensor& out) = 0;
  //   out[.., i, ..] = ln(e^out[.., i-1, ..] + e^x[.., i, ..]), from `initial` or -inf.
  virtual void LogSumExpScan(const Tensor& x, const Tensor& initial, const Tensor& out) = 0;
};

}  // namespace attnd

#endif  // ATTND_KERNELS_PRIMITIVES_PRIMITIVES_H_
