#include "kernels/core/tensor.h"

#include <cstdlib>
#include <iostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace attnd {
namespace {

constexpr size_t kAlignment = 64;

// For our own bugs only: views are made by code, never from input that was not validated.
void Require(bool condition, absl::string_view what, const Tensor& tensor) {
  if (condition) return;
  std::cerr << "attnd: bug: " << what << " on " << tensor.DebugString() << std::endl;
  std::abort();
}

}  // namespace

absl::string_view Name(Device device) { return device == Device::kCpu ? "cpu" : "cuda"; }

std::string ToString(absl::Span<const int64_t> dims) {
  return absl::StrCat("[", absl::StrJoin(dims, ","), "]");
}

absl::StatusOr<int64_t> CheckedElementCount(absl::Span<const int64_t> dims) {
  int64_t count = 1;
  bool empty = false;
  for (int64_t size : dims) {
    if (size < 0) {
      return absl::OutOfRangeError(absl::StrCat("negative size in shape ", ToString(dims)));
    }
    if (size == 0) empty = true;
  }
  if (empty) return 0;
  for (int64_t size : dims) {
    if (__builtin_mul_overflow(count, size, &count)) {
      return absl::OutOfRangeError(
          absl::StrCat("shape ", ToString(dims), " has more elements than fit in 63 bits"));
    }
  }
  return count;
}

absl::StatusOr<int64_t> CheckedByteSize(DType dtype, absl::Span<const int64_t> dims) {
  absl::StatusOr<int64_t> count = CheckedElementCount(dims);
  if (!count.ok()) return count.status();
  int64_t bytes;
  if (__builtin_mul_overflow(*count, static_cast<int64_t>(SizeOf(dtype)), &bytes)) {
    return absl::OutOfRangeError(
        absl::StrCat("shape ", ToString(dims), " has more bytes than fit in 63 bits"));
  }
  return bytes;
}

Dims ContiguousStrides(absl::Span<const int64_t> shape) {
  Dims strides(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= shape[i] > 0 ? shape[i] : 1;
  }
  return strides;
}

Tensor::Tensor(void* data, DType dtype, Dims shape, Device device,
               std::shared_ptr<const void> owner)
    : data_(data),
      shape_(std::move(shape)),
      strides_(ContiguousStrides(shape_)),
      owner_(std::move(owner)),
      dtype_(dtype),
      device_(device),
      defined_(true) {}

Tensor::Tensor(void* data, DType dtype, Dims shape, Dims strides, Device device,
               std::shared_ptr<const void> owner)
    : data_(data),
      shape_(std::move(shape)),
      strides_(std::move(strides)),
      owner_(std::move(owner)),
      dtype_(dtype),
      device_(device),
      defined_(true) {}

int64_t Tensor::num_elements() const {
  int64_t count = 1;
  for (int64_t size : shape_) count *= size;
  return count;
}

bool Tensor::is_contiguous() const {
  int64_t expected = 1;
  for (int i = rank() - 1; i >= 0; --i) {
    if (shape_[i] == 0) return true;
    if (shape_[i] != 1 && strides_[i] != expected) return false;
    expected *= shape_[i];
  }
  return true;
}

Tensor Tensor::Slice(int axis, int64_t begin, int64_t length) const {
  if (axis < 0) axis += rank();
  Require(axis >= 0 && axis < rank() && begin >= 0 && length >= 0 && begin + length <= shape_[axis],
          absl::StrCat("Slice(", axis, ", ", begin, ", ", length, ")"), *this);
  Tensor view = *this;
  view.shape_[axis] = length;
  view.data_ =
      static_cast<char*>(data_) + begin * strides_[axis] * static_cast<int64_t>(SizeOf(dtype_));
  return view;
}

Tensor Tensor::Select(int axis, int64_t index) const {
  if (axis < 0) axis += rank();
  Tensor view = Slice(axis, index, 1);
  view.shape_.erase(view.shape_.begin() + axis);
  view.strides_.erase(view.strides_.begin() + axis);
  return view;
}

Tensor Tensor::Unsqueeze(int axis) const {
  if (axis < 0) axis += rank() + 1;
  Require(axis >= 0 && axis <= rank() && rank() < kMaxRank, absl::StrCat("Unsqueeze(", axis, ")"),
          *this);
  Tensor view = *this;
  const int64_t stride = axis < rank() ? shape_[axis] * strides_[axis] : 1;
  view.shape_.insert(view.shape_.begin() + axis, 1);
  view.strides_.insert(view.strides_.begin() + axis, stride);
  return view;
}

Tensor Tensor::Transpose(int axis_a, int axis_b) const {
  if (axis_a < 0) axis_a += rank();
  if (axis_b < 0) axis_b += rank();
  Require(axis_a >= 0 && axis_a < rank() && axis_b >= 0 && axis_b < rank(), "Transpose", *this);
  Tensor view = *this;
  std::swap(view.shape_[axis_a], view.shape_[axis_b]);
  std::swap(view.strides_[axis_a], view.strides_[axis_b]);
  return view;
}

Tensor Tensor::Permute(absl::Span<const int> order) const {
  Require(static_cast<int>(order.size()) == rank(), "Permute", *this);
  Tensor view = *this;
  for (int i = 0; i < rank(); ++i) {
    view.shape_[i] = shape_[order[i]];
    view.strides_[i] = strides_[order[i]];
  }
  return view;
}

Tensor Tensor::Expand(absl::Span<const int64_t> shape) const {
  const int added = static_cast<int>(shape.size()) - rank();
  Require(added >= 0, absl::StrCat("Expand to ", ToString(shape)), *this);
  Tensor view = *this;
  view.shape_.assign(shape.begin(), shape.end());
  view.strides_.assign(shape.size(), 0);
  for (int i = 0; i < rank(); ++i) {
    const int64_t target = shape[i + added];
    Require(shape_[i] == target || shape_[i] == 1, absl::StrCat("Expand to ", ToString(shape)),
            *this);
    view.strides_[i + added] = shape_[i] == target ? strides_[i] : 0;
  }
  return view;
}

Tensor Tensor::Reshape(Dims shape) const {
  int64_t count = 1;
  for (int64_t size : shape) count *= size;
  Require(is_contiguous() && count == num_elements(), absl::StrCat("Reshape to ", ToString(shape)),
          *this);
  return Tensor(data_, dtype_, std::move(shape), device_, owner_);
}

Tensor Tensor::SplitAxis(int axis, int64_t inner) const {
  if (axis < 0) axis += rank();
  Require(axis >= 0 && axis < rank() && inner > 0 && shape_[axis] % inner == 0,
          absl::StrCat("SplitAxis(", axis, ", ", inner, ")"), *this);
  Tensor view = *this;
  view.shape_[axis] = shape_[axis] / inner;
  view.strides_[axis] = strides_[axis] * inner;
  view.shape_.insert(view.shape_.begin() + axis + 1, inner);
  view.strides_.insert(view.strides_.begin() + axis + 1, strides_[axis]);
  return view;
}

std::string Tensor::DebugString() const {
  if (!defined_) return "undefined";
  return absl::StrCat(Name(dtype_), ToString(shape_));
}

absl::StatusOr<Tensor> AllocateHost(DType dtype, Dims shape) {
  absl::StatusOr<int64_t> bytes = CheckedByteSize(dtype, shape);
  if (!bytes.ok()) return bytes.status();
  const size_t rounded = (static_cast<size_t>(*bytes) + kAlignment) / kAlignment * kAlignment;
  void* data = std::aligned_alloc(kAlignment, rounded);
  if (data == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory for ", *bytes, " bytes of ", Name(dtype), ToString(shape)));
  }
  return Tensor(data, dtype, std::move(shape), Device::kCpu,
                std::shared_ptr<const void>(data, std::free));
}

}  // namespace attnd
