// Element types of tensors, and the two 16-bit floating types of the host.
#ifndef ATTND_KERNELS_CORE_DTYPE_H_
#define ATTND_KERNELS_CORE_DTYPE_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>

#include "absl/strings/string_view.h"

namespace attnd {

enum class DType : uint8_t {
  kBool,
  kInt32,
  kInt64,
  kFloat16,
  kBFloat16,
  kFloat32,
  kFloat64,
};

// Bytes of one element; a bool takes one byte (0 or 1).
constexpr size_t SizeOf(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return 1;
    case DType::kFloat16:
    case DType::kBFloat16:
      return 2;
    case DType::kInt32:
    case DType::kFloat32:
      return 4;
    case DType::kInt64:
    case DType::kFloat64:
      return 8;
  }
  return 0;
}

constexpr bool IsFloating(DType dtype) { return dtype >= DType::kFloat16; }
constexpr bool IsInteger(DType dtype) { return dtype == DType::kInt32 || dtype == DType::kInt64; }

// "bool", "int32", "int64", "float16", "bfloat16", "float32", "float64".
absl::string_view Name(DType dtype);
std::optional<DType> DTypeFromName(absl::string_view name);

// IEEE binary16 as stored; arithmetic happens in float.
struct Half {
  uint16_t bits;
};

// The upper half of an IEEE binary32.
struct BFloat16 {
  uint16_t bits;
};

// Conversions round to nearest, ties to even; NaN stays NaN.
float ToFloat(Half h);
Half ToHalf(float f);

inline float ToFloat(BFloat16 b) {
  const uint32_t bits = static_cast<uint32_t>(b.bits) << 16;
  float f;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}

inline BFloat16 ToBFloat16(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {  // A NaN whose payload could round away stays a NaN.
    return BFloat16{static_cast<uint16_t>((bits >> 16) | 0x40u)};
  }
  return BFloat16{static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<bool> {
  static constexpr DType value = DType::kBool;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::kInt32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::kInt64;
};
template <>
struct DTypeOf<Half> {
  static constexpr DType value = DType::kFloat16;
};
template <>
struct DTypeOf<BFloat16> {
  static constexpr DType value = DType::kBFloat16;
};
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kFloat32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::kFloat64;
};

}  // namespace attnd

#endif  // ATTND_KERNELS_CORE_DTYPE_H_
