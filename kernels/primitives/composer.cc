#include "kernels/primitives/composer.h"

#include <algorithm>
#include <utility>

#include "kernels/core/interrupt.h"

namespace attnd {
namespace {

// The shape that both broadcast to.
Dims BroadcastShape(const Dims& a, const Dims& b) {
  Dims shape(std::max(a.size(), b.size()), 1);
  for (const Dims* dims : {&a, &b}) {
    const size_t offset = shape.size() - dims->size();
    for (size_t i = 0; i < dims->size(); ++i) {
      if ((*dims)[i] != 1) shape[offset + i] = (*dims)[i];
    }
  }
  return shape;
}

int FromEnd(int axis, int rank) { return axis < 0 ? axis + rank : axis; }

bool Usable(const Array& a) { return a.composer() != nullptr && a.composer()->status().ok(); }

Array Combine(BinaryOp op, DType type, const Array& a, const Array& b) {
  if (!Usable(a) || !Usable(b)) return {};
  Composer& c = *a.composer();
  Array out = c.Empty(type, BroadcastShape(a.tensor().shape(), b.tensor().shape()));
  if (out.defined()) c.backend().Binary(op, a.tensor(), b.tensor(), out.tensor());
  return out;
}

Array Combine(BinaryOp op, const Array& a, const Array& b) {
  return Combine(op, a.tensor().dtype(), a, b);
}

// A constant in the type of `like`, which need not be the compute type.
Array Constant(const Array& like, double value) {
  Composer& c = *like.composer();
  Array out = c.Empty(like.tensor().dtype(), {1});
  if (out.defined()) c.backend().Fill(value, out.tensor());
  return out;
}

Array Combine(BinaryOp op, const Array& a, double b) {
  return Usable(a) ? Combine(op, a, Constant(a, b)) : Array();
}

Array Combine(BinaryOp op, double a, const Array& b) {
  return Usable(b) ? Combine(op, Constant(b, a), b) : Array();
}

Array Reduced(ReduceOp op, const Array& x, int axis) {
  if (!Usable(x)) return {};
  Dims shape = x.tensor().shape();
  axis = FromEnd(axis, x.rank());
  shape[axis] = 1;
  Array out = x.composer()->Empty(x.tensor().dtype(), std::move(shape));
  if (out.defined()) x.composer()->backend().Reduce(op, x.tensor(), axis, out.tensor());
  return out;
}

}  // namespace

Array Array::T() const { return Transpose(-1, -2); }

Array Array::Transpose(int axis_a, int axis_b) const {
  return Usable(*this) ? Array(composer_, tensor_.Transpose(axis_a, axis_b)) : Array();
}

Array Array::Permute(std::initializer_list<int> order) const {
  return Usable(*this) ? Array(composer_, tensor_.Permute(order)) : Array();
}

Array Array::Slice(int axis, int64_t begin, int64_t length) const {
  return Usable(*this) ? Array(composer_, tensor_.Slice(axis, begin, length)) : Array();
}

Array Array::Select(int axis, int64_t index) const {
  return Usable(*this) ? Array(composer_, tensor_.Select(axis, index)) : Array();
}

Array Array::Unsqueeze(int axis) const {
  return Usable(*this) ? Array(composer_, tensor_.Unsqueeze(axis)) : Array();
}

Array Array::Reshape(Dims shape) const {
  if (!Usable(*this)) return {};
  const Array whole = composer_->Contiguous(*this);
  return whole.defined() ? Array(composer_, whole.tensor().Reshape(std::move(shape))) : Array();
}

Array Array::Expand(const Dims& shape) const {
  return Usable(*this) ? Array(composer_, tensor_.Expand(shape)) : Array();
}

Array Array::RepeatTo(int axis, int64_t size) const {
  if (!Usable(*this)) return {};
  axis = FromEnd(axis, rank());
  const int64_t present = dim(axis);
  if (present == size) return *this;
  Tensor repeated = tensor_.Unsqueeze(axis + 1);
  Dims shape = repeated.shape();
  shape[axis + 1] = size / present;
  repeated = repeated.Expand(shape);
  Dims merged = tensor_.shape();
  merged[axis] = size;
  return Array(composer_, repeated).Reshape(std::move(merged));
}

void Array::Assign(const Array& value) const {
  if (!Usable(*this) || !Usable(value)) return;
  composer_->backend().Copy(value.tensor(), tensor_);
}

Array operator+(const Array& a, const Array& b) { return Combine(BinaryOp::kAdd, a, b); }
Array operator-(const Array& a, const Array& b) { return Combine(BinaryOp::kSub, a, b); }
Array operator*(const Array& a, const Array& b) { return Combine(BinaryOp::kMul, a, b); }
Array operator/(const Array& a, const Array& b) { return Combine(BinaryOp::kDiv, a, b); }
Array operator+(const Array& a, double b) { return Combine(BinaryOp::kAdd, a, b); }
Array operator-(const Array& a, double b) { return Combine(BinaryOp::kSub, a, b); }
Array operator-(double a, const Array& b) { return Combine(BinaryOp::kSub, a, b); }
Array operator*(const Array& a, double b) { return Combine(BinaryOp::kMul, a, b); }
Array operator*(double a, const Array& b) { return Combine(BinaryOp::kMul, a, b); }
Array operator/(const Array& a, double b) { return Combine(BinaryOp::kDiv, a, b); }
Array operator-(const Array& a) { return Apply(UnaryOp::kNeg, a); }
Array Maximum(const Array& a, const Array& b) { return Combine(BinaryOp::kMax, a, b); }
Array Minimum(const Array& a, const Array& b) { return Combine(BinaryOp::kMin, a, b); }
Array Maximum(const Array& a, double b) { return Combine(BinaryOp::kMax, a, b); }
Array Minimum(const Array& a, double b) { return Combine(BinaryOp::kMin, a, b); }
Array Mod(const Array& a, const Array& b) { return Combine(BinaryOp::kMod, a, b); }
Array Pow(const Array& a, const Array& b) { return Combine(BinaryOp::kPow, a, b); }

Array operator<(const Array& a, const Array& b) {
  return Combine(BinaryOp::kLess, DType::kBool, a, b);
}
Array operator<=(const Array& a, const Array& b) {
  return Combine(BinaryOp::kLessEqual, DType::kBool, a, b);
}
Array Equal(const Array& a, const Array& b) {
  return Combine(BinaryOp::kEqual, DType::kBool, a, b);
}
Array operator&&(const Array& a, const Array& b) {
  return Combine(BinaryOp::kAnd, DType::kBool, a, b);
}
Array operator||(const Array& a, const Array& b) {
  return Combine(BinaryOp::kOr, DType::kBool, a, b);
}
Array operator!(const Array& a) { return Apply(UnaryOp::kNot, a); }

Array Where(const Array& condition, const Array& a, const Array& b) {
  if (!Usable(condition) || !Usable(a) || !Usable(b)) return {};
  Composer& c = *a.composer();
  const Dims shape = BroadcastShape(condition.tensor().shape(),
                                    BroadcastShape(a.tensor().shape(), b.tensor().shape()));
  Array out = c.Empty(a.tensor().dtype(), shape);
  if (out.defined()) {
    c.backend().Where(condition.tensor(), a.tensor(), b.tensor(), out.tensor());
  }
  return out;
}

Array Where(const Array& condition, const Array& a, double b) {
  return Usable(a) ? Where(condition, a, Constant(a, b)) : Array();
}

Array Apply(UnaryOp op, const Array& x) {
  if (!Usable(x)) return {};
  Array out = x.composer()->Empty(x.tensor().dtype(), x.tensor().shape());
  if (out.defined()) x.composer()->backend().Unary(op, x.tensor(), out.tensor());
  return out;
}

Array Exp(const Array& x) { return Apply(UnaryOp::kExp, x); }
Array Log(const Array& x) { return Apply(UnaryOp::kLog, x); }
Array Sqrt(const Array& x) { return Apply(UnaryOp::kSqrt, x); }
Array Sigmoid(const Array& x) { return Apply(UnaryOp::kSigmoid, x); }
Array Softplus(const Array& x) { return Apply(UnaryOp::kSoftplus, x); }
Array Silu(const Array& x) { return Apply(UnaryOp::kSilu, x); }
Array Gelu(const Array& x) { return Apply(UnaryOp::kGelu, x); }

Array Sum(const Array& x, int axis) { return Reduced(ReduceOp::kSum, x, axis); }
Array Max(const Array& x, int axis) { return Reduced(ReduceOp::kMax, x, axis); }

Array CumSum(const Array& x, int axis) {
  if (!Usable(x)) return {};
  Array out = x.composer()->Empty(x.tensor().dtype(), x.tensor().shape());
  if (out.defined()) {
    x.composer()->backend().CumSum(x.tensor(), FromEnd(axis, x.rank()), out.tensor());
  }
  return out;
}

Array Softmax(const Array& x, const Array& mask, Array* lse) {
  if (!Usable(x)) return {};
  Composer& c = *x.composer();
  const Dims shape = mask.defined() ? BroadcastShape(x.tensor().shape(), mask.tensor().shape())
                                    : x.tensor().shape();
  Array out = c.Empty(shape);
  Tensor sums;
  if (lse != nullptr) {
    Dims rows = shape;
    rows.back() = 1;
    *lse = c.Empty(std::move(rows));
    sums = lse->tensor();
  }
  if (c.status().ok()) c.backend().Softmax(x.tensor(), mask.tensor(), out.tensor(), sums);
  return out;
}

Array MatMul(const Array& a, const Array& b) {
  if (!Usable(a) || !Usable(b)) return {};
  const Dims& left = a.tensor().shape();
  const Dims& right = b.tensor().shape();
  Dims shape =
      BroadcastShape(Dims(left.begin(), left.end() - 2), Dims(right.begin(), right.end() - 2));
  shape.push_back(a.dim(-2));
  shape.push_back(b.dim(-1));
  Array out = a.composer()->Empty(std::move(shape));
  if (out.defined()) a.composer()->backend().MatMul(a.tensor(), b.tensor(), out.tensor(), 1, 0);
  return out;
}

Array Gather(const Array& x, const Array& index, int axis) {
  if (!Usable(x) || !Usable(index)) return {};
  axis = FromEnd(axis, x.rank());
  Dims shape = x.tensor().shape();
  shape[axis] = index.dim(0);
  Array out = x.composer()->Empty(x.tensor().dtype(), std::move(shape));
  if (out.defined()) {
    x.composer()->backend().Gather(x.tensor(), index.tensor(), axis, out.tensor());
  }
  return out;
}

Array Concat(const Array& a, const Array& b, int axis) {
  if (!Usable(a) || !Usable(b)) return {};
  axis = FromEnd(axis, a.rank());
  Dims shape = a.tensor().shape();
  shape[axis] += b.dim(axis);
  Array out = a.composer()->Empty(a.tensor().dtype(), std::move(shape));
  if (!out.defined()) return {};
  out.Slice(axis, 0, a.dim(axis)).Assign(a);
  out.Slice(axis, a.dim(axis), b.dim(axis)).Assign(b);
  return out;
}

Array Flip(const Array& x, int axis) {
  if (!Usable(x)) return {};
  Composer& c = *x.composer();
  const int64_t size = x.dim(axis);
  const Array index = c.Empty(DType::kInt64, {size});
  if (!index.defined()) return {};
  c.backend().Iota(static_cast<double>(size - 1), -1, index.tensor());
  return Gather(x, index, axis);
}

Array SortDescending(const Array& x) {
  if (!Usable(x)) return {};
  Array out = x.composer()->Empty(DType::kInt64, x.tensor().shape());
  if (out.defined()) x.composer()->backend().SortDescending(x.tensor(), out.tensor());
  return out;
}

Array Ranks(const Array& x) {
  if (!Usable(x)) return {};
  // The inverse of a permutation sorts it.
  Composer& c = *x.composer();
  return SortDescending(-c.Cast(SortDescending(x), c.compute_type()));
}

Array TakeRows(const Array& x, const Array& index) {
  if (!Usable(x) || !Usable(index)) return {};
  Composer& c = *x.composer();
  const int64_t n = x.dim(-2), width = x.dim(-1), taken = index.dim(-1);
  Dims shape = index.tensor().shape();
  shape.push_back(width);
  const int64_t rows = index.tensor().num_elements() / std::max<int64_t>(taken, 1);
  if (taken == 0 || rows == 0) return c.Empty(x.tensor().dtype(), std::move(shape));
  const Array first = c.Empty(DType::kInt64, {rows});
  if (!first.defined()) return {};
  c.backend().Iota(0, static_cast<double>(n), first.tensor());
  const Array flat = (index.Reshape({rows, taken}) + first.Unsqueeze(1)).Reshape({rows * taken});
  return Gather(x.Reshape({rows * n, width}), flat, 0).Reshape(std::move(shape));
}

namespace {

// [B,T,...] as [B,T,D], the form that scans have.
Array AsRows(const Array& x) {
  if (!Usable(x)) return {};
  const int64_t rows = x.dim(0) * x.dim(1);
  int64_t width = 1;
  for (int axis = 2; axis < x.rank(); ++axis) width *= x.dim(axis);
  return rows == 0 ? x.composer()->Empty(x.tensor().dtype(), {x.dim(0), x.dim(1), width})
                   : x.Reshape({x.dim(0), x.dim(1), width});
}

Array InitialRows(const Array& initial, int64_t width) {
  return initial.defined() ? initial.Reshape({initial.dim(0), width}) : Array();
}

}  // namespace

Array LinearScan(const Array& factor, const Array& x, const Array& initial) {
  if (!Usable(x) || !Usable(factor)) return {};
  Composer& c = *x.composer();
  const Dims shape = x.tensor().shape();
  const Array rows = AsRows(x), factors = AsRows(factor.Expand(shape));
  if (!Usable(rows) || !Usable(factors)) return {};
  const Array before = InitialRows(initial, rows.dim(2));
  const Array out = c.Empty(x.tensor().dtype(), rows.tensor().shape());
  if (!out.defined()) return {};
  c.backend().LinearScan(factors.tensor(), rows.tensor(), before.tensor(), out.tensor());
  return out.Reshape(shape);
}

Array LogSumExpScan(const Array& x, const Array& initial) {
  if (!Usable(x)) return {};
  Composer& c = *x.composer();
  const Array rows = AsRows(x);
  if (!Usable(rows)) return {};
  const Array before = InitialRows(initial, rows.dim(2));
  const Array out = c.Empty(x.tensor().dtype(), rows.tensor().shape());
  if (!out.defined()) return {};
  c.backend().LogSumExpScan(rows.tensor(), before.tensor(), out.tensor());
  return out.Reshape(x.tensor().shape());
}

Array L2Normalize(const Array& x, double eps) {
  return x / Sqrt(Sum(Apply(UnaryOp::kSquare, x), -1) + eps);
}

Composer::Composer(Backend& backend, const BoundCall& call, const NamedTensors& outputs,
                   Parts parts)
    : backend_(backend),
      call_(call),
      outputs_(outputs),
      compute_type_(call.dtype() == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32),
      parts_(parts) {}

Array Composer::In(absl::string_view name) {
  const Tensor& input = call_.input(name);
  if (!input.defined() || !status_.ok()) return {};
  const Array raw(this, input);
  return IsFloating(input.dtype()) ? Cast(raw, compute_type_) : raw;
}

void Composer::Out(absl::string_view name, const Array& value) {
  const Tensor* out = outputs_.Find(name);
  if (out == nullptr || !status_.ok() || !value.defined()) return;
  backend_.Copy(value.tensor(), *out);
}

Array Composer::Empty(Dims shape) { return Empty(compute_type_, std::move(shape)); }

Array Composer::Empty(DType dtype, Dims shape) {
  StopPoint();
  if (!status_.ok()) return {};
  absl::StatusOr<Tensor> tensor = backend_.Allocate(dtype, std::move(shape));
  if (!tensor.ok()) {
    Fail(tensor.status());
    return {};
  }
  return Array(this, *std::move(tensor));
}

Array Composer::Full(Dims shape, double value) {
  Array out = Empty(std::move(shape));
  if (out.defined()) backend_.Fill(value, out.tensor());
  return out;
}

Array Composer::Iota(int64_t size, double start, double step) {
  Array out = Empty({size});
  if (out.defined()) backend_.Iota(start, step, out.tensor());
  return out;
}

Array Composer::FromHost(const Tensor& host) {
  Array out = Empty(host.dtype(), host.shape());
  if (!out.defined()) return {};
  if (absl::Status s = backend_.Upload(host, out.tensor()); !s.ok()) {
    Fail(std::move(s));
    return {};
  }
  return IsFloating(host.dtype()) ? Cast(out, compute_type_) : out;
}

Tensor Composer::ToHost(const Array& x) {
  const Array whole = Contiguous(x);
  if (!Usable(whole)) return {};
  absl::StatusOr<Tensor> host = AllocateHost(whole.tensor().dtype(), whole.tensor().shape());
  if (host.ok()) {
    Fail(backend_.Download(whole.tensor(), *host));
  } else {
    Fail(host.status());
  }
  return status_.ok() ? *std::move(host) : Tensor();
}

Array Composer::Cast(const Array& x, DType dtype) {
  if (!Usable(x) || x.tensor().dtype() == dtype) return x;
  Array out = Empty(dtype, x.tensor().shape());
  if (out.defined()) backend_.Copy(x.tensor(), out.tensor());
  return out;
}

Array Composer::Contiguous(const Array& x) {
  if (!Usable(x) || x.tensor().is_contiguous()) return x;
  Array out = Empty(x.tensor().dtype(), x.tensor().shape());
  if (out.defined()) backend_.Copy(x.tensor(), out.tensor());
  return out;
}

bool Composer::AllFinite(const Array& x) {
  // Zero times anything that is not finite is NaN, which the sum keeps.
  const Array zeros = x * 0.0;
  const Array sum = Sum(zeros.Reshape({zeros.tensor().num_elements()}), 0);
  if (!sum.defined()) return true;
  const absl::StatusOr<Tensor> host = AllocateHost(compute_type_, sum.tensor().shape());
  Fail(host.ok() ? backend_.Download(sum.tensor(), *host) : host.status());
  if (!status_.ok()) return true;
  return compute_type_ == DType::kFloat64 ? *host->data<double>() == 0 : *host->data<float>() == 0;
}

}  // namespace attnd
