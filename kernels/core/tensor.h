// A tensor is a view: element type, shape, strides and a pointer into memory that somebody owns.
// Copying a Tensor copies the view, never the elements.
#ifndef ATTND_KERNELS_CORE_TENSOR_H_
#define ATTND_KERNELS_CORE_TENSOR_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/core/dtype.h"

namespace attnd {

inline constexpr int kMaxRank = 8;

enum class Device : uint8_t { kCpu, kCuda };

// "cpu" or "cuda".
absl::string_view Name(Device device);

// Sizes or strides, outermost first. Strides count elements.
using Dims = absl::InlinedVector<int64_t, 6>;

// "[2,16,4]".
std::string ToString(absl::Span<const int64_t> dims);

// Product of sizes. OUT_OF_RANGE if a size is negative or the product exceeds int64.
absl::StatusOr<int64_t> CheckedElementCount(absl::Span<const int64_t> dims);

// Bytes of a contiguous tensor. OUT_OF_RANGE as above.
absl::StatusOr<int64_t> CheckedByteSize(DType dtype, absl::Span<const int64_t> dims);

class Tensor {
 public:
  Tensor() = default;

  // A contiguous row-major view on `data`. `owner` (may be null) is kept alive as long as any view
  // derived from this one.
  Tensor(void* data, DType dtype, Dims shape, Device device = Device::kCpu,
         std::shared_ptr<const void> owner = nullptr);

  // A strided view.
  Tensor(void* data, DType dtype, Dims shape, Dims strides, Device device,
         std::shared_ptr<const void> owner);

  bool defined() const { return defined_; }
  DType dtype() const { return dtype_; }
  Device device() const { return device_; }
  const Dims& shape() const { return shape_; }
  const Dims& strides() const { return strides_; }
  int rank() const { return static_cast<int>(shape_.size()); }

  // Size of an axis; negative axes count from the end.
  int64_t dim(int axis) const { return shape_[axis < 0 ? axis + rank() : axis]; }
  int64_t stride(int axis) const { return strides_[axis < 0 ? axis + rank() : axis]; }
  int64_t num_elements() const;
  int64_t byte_size() const { return num_elements() * static_cast<int64_t>(SizeOf(dtype_)); }
  bool is_contiguous() const;

  void* raw() const { return data_; }
  template <typename T>
  T* data() const {
    return static_cast<T*>(data_);
  }
  const std::shared_ptr<const void>& owner() const { return owner_; }

  // Views on the same memory. Arguments out of range are bugs of the caller and abort.
  Tensor Slice(int axis, int64_t begin, int64_t length) const;
  Tensor Select(int axis, int64_t index) const;  // Slice of length 1 without its axis.
  Tensor Unsqueeze(int axis) const;              // A new axis of size 1 before `axis`.
  Tensor Transpose(int axis_a, int axis_b) const;
  Tensor Permute(absl::Span<const int> order) const;
  // Repeats axes of size 1 (stride 0) and adds leading axes.
  Tensor Expand(absl::Span<const int64_t> shape) const;
  // The same elements in row-major order under another shape; needs a contiguous view.
  Tensor Reshape(Dims shape) const;
  // Splits an axis into two (outer * inner = its size); works on any strides.
  Tensor SplitAxis(int axis, int64_t inner) const;

  // "float32[2,16,4]".
  std::string DebugString() const;

 private:
  void* data_ = nullptr;
  Dims shape_;
  Dims strides_;
  std::shared_ptr<const void> owner_;
  DType dtype_ = DType::kFloat32;
  Device device_ = Device::kCpu;
  bool defined_ = false;
};

// Row-major strides of `shape`.
Dims ContiguousStrides(absl::Span<const int64_t> shape);

// Uninitialised host memory, 64-byte aligned. RESOURCE_EXHAUSTED if there is none,
// OUT_OF_RANGE if the size overflows.
absl::StatusOr<Tensor> AllocateHost(DType dtype, Dims shape);

// A host tensor that holds a copy of `values`. For tests and small constants.
template <typename T>
Tensor HostTensor(Dims shape, absl::Span<const T> values) {
  Tensor t = AllocateHost(DTypeOf<T>::value, std::move(shape)).value();
  std::copy(values.begin(), values.end(), t.data<T>());
  return t;
}

}  // namespace attnd

#endif  // ATTND_KERNELS_CORE_TENSOR_H_
