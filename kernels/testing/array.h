// Float64 arrays with indices: what properties of operators are written in.
#ifndef ATTND_KERNELS_TESTING_ARRAY_H_
#define ATTND_KERNELS_TESTING_ARRAY_H_

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/types/span.h"
#include "kernels/core/tensor.h"

namespace attnd::testing {

class Array {
 public:
  Array() = default;
  explicit Array(Dims shape, double fill = 0);
  Array(Dims shape, std::vector<double> values);
  // Copies a host tensor of any type.
  explicit Array(const Tensor& tensor);

  // a(b, t, h, c): the last indices that are left out are 0.
  template <typename... Index>
  double& operator()(Index... index) {
    return values_[Offset({static_cast<int64_t>(index)...})];
  }
  template <typename... Index>
  double operator()(Index... index) const {
    return values_[Offset({static_cast<int64_t>(index)...})];
  }

  const Dims& shape() const { return shape_; }
  int64_t dim(int axis) const { return shape_[static_cast<size_t>(axis)]; }
  int rank() const { return static_cast<int>(shape_.size()); }
  const std::vector<double>& values() const { return values_; }
  std::vector<double>& values() { return values_; }

  Array Map(const std::function<double(double)>& function) const;
  Array operator*(double factor) const;
  // Of equal shapes.
  Array operator+(const Array& other) const;
  Array operator*(const Array& other) const;

  // Entries [begin, begin + length) of an axis.
  Array Slice(int axis, int64_t begin, int64_t length) const;
  // Entry order[i] of an axis as its i-th.
  Array Take(int axis, absl::Span<const int64_t> order) const;
  // Every entry of an axis `times` times in place: [a,b] -> [a,a,b,b]; heads for their groups.
  Array Repeat(int axis, int64_t times) const;
  // A new last axis of that many equal entries.
  Array Spread(int64_t size) const;
  Array Reshape(Dims shape) const;
  // Divided by the l2-norm over the last axis.
  Array Unit() const;

 private:
  int64_t Offset(std::initializer_list<int64_t> index) const;

  Dims shape_;
  std::vector<double> values_;
};

// Along an axis; all other sizes agree.
Array Concatenate(absl::Span<const Array> parts, int axis);

// sum_c a(..., c) b(..., c) of two rows of `size` values.
double Dot(const double* a, const double* b, int64_t size);

// ‖a - b‖ / ‖b‖ (‖a‖ if b is all zeros); infinity if shapes differ or anything is not finite.
double RelativeError(const Array& a, const Array& b);

}  // namespace attnd::testing

#endif  // ATTND_KERNELS_TESTING_ARRAY_H_
