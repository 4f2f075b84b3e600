// Composed definitions read like the paper: arrays with operators, on any backend, in float32 or
// float64.
//
//   absl::Status Definition(Composer& c) {
//     Array q = c.In("q"), k = c.In("k"), v = c.In("v");
//     Array s = MatMul(q, k.T()) * c.real("scale");
//     c.Out("o", MatMul(Softmax(s), v));
//     return c.status();
//   }
//
// Memory failures are sticky: after the first, every function returns an empty array and status()
// tells.
#ifndef ATTND_KERNELS_PRIMITIVES_COMPOSER_H_
#define ATTND_KERNELS_PRIMITIVES_COMPOSER_H_

#include <initializer_list>
#include <string>

#include "absl/status/status.h"
#include "kernels/core/call.h"
#include "kernels/primitives/primitives.h"

namespace attnd {

class Composer;
class Registry;

// A tensor in the compute type of its composer, in the backend's memory. Copies share elements;
// functions return new arrays. Views (T, Slice, Reshape, ...) share elements with their source.
class Array {
 public:
  Array() = default;
  Array(Composer* composer, Tensor tensor) : composer_(composer), tensor_(std::move(tensor)) {}

  const Tensor& tensor() const { return tensor_; }
  Composer* composer() const { return composer_; }
  bool defined() const { return tensor_.defined(); }
  int64_t dim(int axis) const { return tensor_.dim(axis); }
  int rank() const { return tensor_.rank(); }

  Array T() const;  // Last two axes exchanged.
  Array Transpose(int axis_a, int axis_b) const;
  Array Permute(std::initializer_list<int> order) const;
  Array Slice(int axis, int64_t begin, int64_t length) const;
  Array Select(int axis, int64_t index) const;
  Array Unsqueeze(int axis) const;  // Negative: counted from the end of the result.
  Array Reshape(Dims shape) const;  // Copies first if the view is not contiguous.
  Array Expand(const Dims& shape) const;
  // Repeats consecutive: axis of size h becomes size `heads` (a multiple of h), index i reading
  // i/(heads/h): the grouped-head rule.
  Array RepeatTo(int axis, int64_t size) const;

  // In-place assignment into a view, for recurrences and splits: elements of this = value
  // (broadcast).
  void Assign(const Array& value) const;

 private:
  Composer* composer_ = nullptr;
  Tensor tensor_;
};

Array operator+(const Array& a, const Array& b);
Array operator-(const Array& a, const Array& b);
Array operator*(const Array& a, const Array& b);
Array operator/(const Array& a, const Array& b);
Array operator+(const Array& a, double b);
Array operator-(const Array& a, double b);
Array operator-(double a, const Array& b);
Array operator*(const Array& a, double b);
Array operator*(double a, const Array& b);
Array operator/(const Array& a, double b);
Array operator-(const Array& a);
Array Maximum(const Array& a, const Array& b);
Array Minimum(const Array& a, const Array& b);
Array Maximum(const Array& a, double b);
Array Minimum(const Array& a, double b);
Array Mod(const Array& a, const Array& b);
Array Pow(const Array& a, const Array& b);

// Comparisons and logic on and to bool arrays.
Array operator<(const Array& a, const Array& b);
Array operator<=(const Array& a, const Array& b);
Array Equal(const Array& a, const Array& b);
Array operator&&(const Array& a, const Array& b);
Array operator||(const Array& a, const Array& b);
Array operator!(const Array& a);
Array Where(const Array& condition, const Array& a, const Array& b);
Array Where(const Array& condition, const Array& a, double b);

Array Apply(UnaryOp op, const Array& x);
Array Exp(const Array& x);
Array Log(const Array& x);
Array Sqrt(const Array& x);
Array Sigmoid(const Array& x);
Array Softplus(const Array& x);
Array Silu(const Array& x);
Array Gelu(const Array& x);  // Exact: with erf.

// Over `axis`, kept with size 1.
Array Sum(const Array& x, int axis);
Array Max(const Array& x, int axis);
Array CumSum(const Array& x, int axis);

// Over the last axis; mask may be an undefined array. lse, if not null, gets [..,1].
Array Softmax(const Array& x, const Array& mask = {}, Array* lse = nullptr);

Array MatMul(const Array& a, const Array& b);  // [..,m,k] x [..,k,n], leading axes broadcast.
Array Gather(const Array& x, const Array& index, int axis);
Array Concat(const Array& a, const Array& b, int axis);
Array Flip(const Array& x, int axis);

// Choices. Indices of the last axis by falling value, ties to the lower index: int64, x's shape.
Array SortDescending(const Array& x);
// Each entry's place in that order, int64.
Array Ranks(const Array& x);
// x [..,n,d], index int64 [..,k] -> [..,k,d]: row index[.., i] of each.
Array TakeRows(const Array& x, const Array& index);

// Recurrences along axis 1 of [B,T,...], from `initial` [B,...] or undefined (0, -inf):
// h_t = factor_t h_{t-1} + x_t, and z_t = ln(e^z_{t-1} + e^x_t). factor broadcasts to x.
Array LinearScan(const Array& factor, const Array& x, const Array& initial = {});
Array LogSumExpScan(const Array& x, const Array& initial = {});

// x / sqrt(sum x^2 + eps) over the last axis.
Array L2Normalize(const Array& x, double eps);

class Composer {
 public:
  // What a definition's calls of other operators (part_call.h) find.
  struct Parts {
    const Registry* registry = nullptr;
    bool kernels = false;  // Whether they run kernels; else definitions.
  };

  // `call` holds tensors in the backend's memory; `outputs` are allocated there. The compute type
  // is float64 in a float64 call and float32 otherwise.
  Composer(Backend& backend, const BoundCall& call, const NamedTensors& outputs)
      : Composer(backend, call, outputs, Parts()) {}
  Composer(Backend& backend, const BoundCall& call, const NamedTensors& outputs, Parts parts);

  Backend& backend() { return backend_; }
  const BoundCall& call() const { return call_; }
  const Parts& parts() const { return parts_; }
  DType compute_type() const { return compute_type_; }

  // An input in the compute type (bool and integer inputs as they are). Undefined if it was not
  // given.
  Array In(absl::string_view name);
  bool has(absl::string_view name) const { return call_.has(name); }
  // Writes an output, converted to its type. Does nothing if this call does not produce it.
  void Out(absl::string_view name, const Array& value);

  int64_t dim(absl::string_view symbol) const { return call_.dim(symbol); }
  double real(absl::string_view attribute) const { return call_.real(attribute); }
  bool flag(absl::string_view attribute) const { return call_.flag(attribute); }
  int64_t integer(absl::string_view attribute) const { return call_.integer(attribute); }
  const std::string& choice(absl::string_view attribute) const { return call_.choice(attribute); }

  // New arrays; each is a StopPoint.
  Array Empty(Dims shape);
  Array Empty(DType dtype, Dims shape);
  Array Full(Dims shape, double value);
  Array Zeros(Dims shape) { return Full(std::move(shape), 0); }
  Array Iota(int64_t size, double start = 0, double step = 1);  // Compute type.
  Array Scalar(double value) { return Full({1}, value); }
  // A copy of a host tensor (float, int or bool), floating types in the compute type.
  Array FromHost(const Tensor& host);
  // A copy on the host, contiguous, for what only a host can follow. Waits for the backend.
  // Undefined after a failure; status() tells.
  Tensor ToHost(const Array& x);
  Array Cast(const Array& x, DType dtype);
  Array Contiguous(const Array& x);
  // Whether no element is NaN or infinite. Waits for the backend.
  bool AllFinite(const Array& x);

  absl::Status status() const { return status_; }
  void Fail(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
  }

 private:
  Backend& backend_;
  const BoundCall& call_;
  const NamedTensors& outputs_;
  DType compute_type_;
  Parts parts_;
  absl::Status status_;
};

}  // namespace attnd

#endif  // ATTND_KERNELS_PRIMITIVES_COMPOSER_H_
