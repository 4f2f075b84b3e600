#include "kernels/testing/array.h"

#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

#include "kernels/testing/operator_testing.h"

namespace attnd::testing {
namespace {

int64_t Product(absl::Span<const int64_t> sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), int64_t{1}, std::multiplies<>());
}

}  // namespace

Array::Array(Dims shape, double fill)
    : shape_(std::move(shape)), values_(static_cast<size_t>(Product(shape_)), fill) {}

Array::Array(Dims shape, std::vector<double> values)
    : shape_(std::move(shape)), values_(std::move(values)) {}

Array::Array(const Tensor& tensor) : shape_(tensor.shape()), values_(ToDoubles(tensor)) {}

int64_t Array::Offset(std::initializer_list<int64_t> index) const {
  int64_t offset = 0;
  auto at = index.begin();
  for (const int64_t size : shape_) offset = offset * size + (at != index.end() ? *at++ : 0);
  return offset;
}

Array Array::Map(const std::function<double(double)>& function) const {
  Array out = *this;
  for (double& value : out.values_) value = function(value);
  return out;
}

Array Array::operator*(double factor) const {
  return Map([factor](double x) { return factor * x; });
}

Array Array::operator+(const Array& other) const {
  Array out = *this;
  for (size_t i = 0; i < values_.size(); ++i) out.values_[i] += other.values_[i];
  return out;
}

Array Array::operator*(const Array& other) const {
  Array out = *this;
  for (size_t i = 0; i < values_.size(); ++i) out.values_[i] *= other.values_[i];
  return out;
}

Array Array::Take(int axis, absl::Span<const int64_t> order) const {
  const auto at = static_cast<size_t>(axis);
  const int64_t outer = Product(absl::MakeConstSpan(shape_).subspan(0, at));
  const int64_t inner = Product(absl::MakeConstSpan(shape_).subspan(at + 1));
  Dims shape = shape_;
  shape[at] = static_cast<int64_t>(order.size());
  Array out(std::move(shape));
  double* to = out.values_.data();
  for (int64_t o = 0; o < outer; ++o) {
    for (const int64_t entry : order) {
      const double* from = values_.data() + (o * dim(axis) + entry) * inner;
      to = std::copy(from, from + inner, to);
    }
  }
  return out;
}

Array Array::Slice(int axis, int64_t begin, int64_t length) const {
  std::vector<int64_t> order(static_cast<size_t>(length));
  std::iota(order.begin(), order.end(), begin);
  return Take(axis, order);
}

Array Array::Repeat(int axis, int64_t times) const {
  std::vector<int64_t> order;
  for (int64_t i = 0; i < dim(axis) * times; ++i) order.push_back(i / times);
  return Take(axis, order);
}

Array Array::Spread(int64_t size) const {
  Dims shape = shape_;
  shape.push_back(1);
  return Reshape(std::move(shape)).Repeat(rank(), size);
}

Array Array::Reshape(Dims shape) const { return Array(std::move(shape), values_); }

Array Array::Unit() const {
  Array out = *this;
  const int64_t size = shape_.back();
  for (size_t row = 0; row < values_.size(); row += static_cast<size_t>(size)) {
    double* x = out.values_.data() + row;
    const double norm = std::sqrt(Dot(x, x, size));
    for (int64_t i = 0; i < size; ++i) x[i] /= norm;
  }
  return out;
}

Array Concatenate(absl::Span<const Array> parts, int axis) {
  const auto at = static_cast<size_t>(axis);
  Dims shape = parts[0].shape();
  shape[at] = 0;
  for (const Array& part : parts) shape[at] += part.dim(axis);
  const int64_t outer = Product(absl::MakeConstSpan(shape).subspan(0, at));
  const int64_t inner = Product(absl::MakeConstSpan(shape).subspan(at + 1));
  Array out(std::move(shape));
  double* to = out.values().data();
  for (int64_t o = 0; o < outer; ++o) {
    for (const Array& part : parts) {
      const int64_t size = part.dim(axis) * inner;
      const double* from = part.values().data() + o * size;
      to = std::copy(from, from + size, to);
    }
  }
  return out;
}

double Dot(const double* a, const double* b, int64_t size) {
  return std::inner_product(a, a + size, b, 0.0);
}

double RelativeError(const Array& a, const Array& b) {
  if (a.shape() != b.shape()) return std::numeric_limits<double>::infinity();
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.values().size(); ++i) {
    const double x = a.values()[i], y = b.values()[i];
    if (!std::isfinite(x) || !std::isfinite(y)) return std::numeric_limits<double>::infinity();
    difference += (x - y) * (x - y);
    norm += y * y;
  }
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

}  // namespace attnd::testing
