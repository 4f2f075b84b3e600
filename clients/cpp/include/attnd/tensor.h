// A tensor as a value: element type, shape and bytes. What calls take and give.
#ifndef ATTND_CLIENT_TENSOR_H_
#define ATTND_CLIENT_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "attnd/v1/tensor.pb.h"

namespace attnd::client {

// BOOL, INT32, INT64, FLOAT16, BFLOAT16, FLOAT32, FLOAT64.
using DType = v1::DataType;

// Bytes of an element; 0 for a type that is none of the above.
constexpr size_t SizeOf(DType dtype) {
  switch (dtype) {
    case v1::BOOL:
      return 1;
    case v1::FLOAT16:
    case v1::BFLOAT16:
      return 2;
    case v1::INT32:
    case v1::FLOAT32:
      return 4;
    case v1::INT64:
    case v1::FLOAT64:
      return 8;
    default:
      return 0;
  }
}

constexpr bool IsFloating(DType dtype) {
  return dtype == v1::FLOAT16 || dtype == v1::BFLOAT16 || dtype == v1::FLOAT32 ||
         dtype == v1::FLOAT64;
}

// "bool", "int32", "int64", "float16", "bfloat16", "float32", "float64"; "unknown" otherwise.
absl::string_view Name(DType dtype);

// The type of that name, "bf16", "f16" (or "fp16"), "f32" and "f64" included. INVALID_ARGUMENT if
// there is none.
absl::StatusOr<DType> DTypeFromName(absl::string_view name);

template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<uint8_t> {  // std::vector<bool> is no row of bytes.
  static constexpr DType value = v1::BOOL;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = v1::INT32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = v1::INT64;
};
template <>
struct DTypeOf<float> {
  static constexpr DType value = v1::FLOAT32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = v1::FLOAT64;
};

// Bytes that a tensor of this type and shape has. INVALID_ARGUMENT if a size is negative, the type
// is unknown or the product overflows.
absl::StatusOr<int64_t> ByteSize(DType dtype, absl::Span<const int64_t> shape);

struct Tensor {
  DType dtype = v1::FLOAT32;
  // Outermost first.
  std::vector<int64_t> shape;
  // Little-endian, row-major, without padding: ByteSize(dtype, shape) of them.
  std::string bytes;

  // A tensor of `values`, whose count the caller answers for: the server refuses what does not fit.
  template <typename T>
  static Tensor Of(std::vector<int64_t> shape, absl::Span<const T> values) {
    return Tensor{
        DTypeOf<T>::value, std::move(shape),
        std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T))};
  }

  // A tensor of any floating type from floats, rounded to nearest, ties to even. INVALID_ARGUMENT
  // if `dtype` is not a floating type.
  static absl::StatusOr<Tensor> FromFloats(DType dtype, std::vector<int64_t> shape,
                                           absl::Span<const float> values);

  // The elements; T must be the tensor's type (int32_t for INT32, ...).
  template <typename T>
  std::vector<T> Values() const {
    std::vector<T> values(dtype == DTypeOf<T>::value ? bytes.size() / sizeof(T) : 0);
    if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
    return values;
  }

  // The elements of a tensor of any type as doubles.
  std::vector<double> ToDoubles() const;

  int64_t num_elements() const {
    const size_t size = SizeOf(dtype);
    return size == 0 ? 0 : static_cast<int64_t>(bytes.size() / size);
  }

  // "float32[2,16,4]".
  std::string DebugString() const;
};

}  // namespace attnd::client

#endif  // ATTND_CLIENT_TENSOR_H_
