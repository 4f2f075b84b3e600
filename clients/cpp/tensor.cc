#include "attnd/tensor.h"

#include <array>
#include <bit>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace attnd::client {
namespace {

struct TypeName {
  absl::string_view name;
  DType dtype;
};

// The first name of a type is its own; others are accepted.
constexpr std::array<TypeName, 12> kTypeNames = {{{"bool", v1::BOOL},
                                                  {"int32", v1::INT32},
                                                  {"int64", v1::INT64},
                                                  {"float16", v1::FLOAT16},
                                                  {"bfloat16", v1::BFLOAT16},
                                                  {"float32", v1::FLOAT32},
                                                  {"float64", v1::FLOAT64},
                                                  {"bf16", v1::BFLOAT16},
                                                  {"f16", v1::FLOAT16},
                                                  {"fp16", v1::FLOAT16},
                                                  {"f32", v1::FLOAT32},
                                                  {"f64", v1::FLOAT64}}};

double FromHalf(uint16_t bits) {
  const int exponent = (bits >> 10) & 0x1f;
  const int mantissa = bits & 0x3ff;
  double magnitude;
  if (exponent == 0x1f) {
    magnitude = mantissa == 0 ? HUGE_VAL : std::nan("");
  } else if (exponent == 0) {
    magnitude = std::ldexp(mantissa, -24);
  } else {
    magnitude = std::ldexp(mantissa | 0x400, exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

// nearbyint rounds to nearest, ties to even, in the default rounding mode.
uint16_t ToHalf(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isnan(value)) return sign | 0x7e00;
  const double magnitude = std::fabs(static_cast<double>(value));
  if (magnitude >= 65520.0) return sign | 0x7c00;  // Rounds past the largest finite value.
  if (magnitude < 0x1p-14) {                       // Subnormal: units of 2^-24.
    return sign | static_cast<uint16_t>(std::nearbyint(std::ldexp(magnitude, 24)));
  }
  int exponent;
  const double fraction = std::frexp(magnitude, &exponent);  // In [0.5, 1).
  const auto mantissa = static_cast<uint32_t>(std::nearbyint(std::ldexp(fraction, 11)));
  // A mantissa that rounded up to 2^11 carries into the exponent by itself.
  return sign | static_cast<uint16_t>(((exponent + 14) << 10) + (mantissa - 0x400));
}

double FromBFloat16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

uint16_t ToBFloat16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

template <typename Stored, typename Convert>
std::string Encode(absl::Span<const float> values, Convert convert) {
  std::string bytes(values.size() * sizeof(Stored), '\0');
  for (size_t i = 0; i < values.size(); ++i) {
    const Stored stored = convert(values[i]);
    std::memcpy(bytes.data() + i * sizeof(Stored), &stored, sizeof(Stored));
  }
  return bytes;
}

template <typename Stored, typename Convert>
std::vector<double> Decode(absl::string_view bytes, Convert convert) {
  std::vector<double> values(bytes.size() / sizeof(Stored));
  for (size_t i = 0; i < values.size(); ++i) {
    Stored stored;
    std::memcpy(&stored, bytes.data() + i * sizeof(Stored), sizeof(Stored));
    values[i] = convert(stored);
  }
  return values;
}

}  // namespace

absl::string_view Name(DType dtype) {
  for (const TypeName& entry : kTypeNames) {
    if (entry.dtype == dtype) return entry.name;
  }
  return "unknown";
}

absl::StatusOr<DType> DTypeFromName(absl::string_view name) {
  for (const TypeName& entry : kTypeNames) {
    if (entry.name == name) return entry.dtype;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("type: given \"", name, "\", expected one of ",
                   absl::StrJoin(kTypeNames, ", ", [](std::string* out, const TypeName& entry) {
                     absl::StrAppend(out, entry.name);
                   })));
}

absl::StatusOr<int64_t> ByteSize(DType dtype, absl::Span<const int64_t> shape) {
  auto bytes = static_cast<int64_t>(SizeOf(dtype));
  if (bytes == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("unknown element type ", static_cast<int>(dtype)));
  }
  bool overflow = false;
  bool empty = false;
  for (int64_t size : shape) {
    if (size < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("shape [", absl::StrJoin(shape, ","), "] holds a negative size"));
    }
    empty |= size == 0;
    overflow |= __builtin_mul_overflow(bytes, size, &bytes);
  }
  if (empty) return 0;
  if (overflow) {
    return absl::InvalidArgumentError(
        absl::StrCat("shape [", absl::StrJoin(shape, ","), "] has too many elements"));
  }
  return bytes;
}

absl::StatusOr<Tensor> Tensor::FromFloats(DType dtype, std::vector<int64_t> shape,
                                          absl::Span<const float> values) {
  Tensor tensor{dtype, std::move(shape), {}};
  switch (dtype) {
    case v1::FLOAT16:
      tensor.bytes = Encode<uint16_t>(values, ToHalf);
      return tensor;
    case v1::BFLOAT16:
      tensor.bytes = Encode<uint16_t>(values, ToBFloat16);
      return tensor;
    case v1::FLOAT32:
      tensor.bytes = Encode<float>(values, [](float value) { return value; });
      return tensor;
    case v1::FLOAT64:
      tensor.bytes = Encode<double>(values, [](float value) { return double{value}; });
      return tensor;
    default:
      return absl::InvalidArgumentError(
          absl::StrCat("type: given ", Name(dtype), ", expected a floating type"));
  }
}

std::vector<double> Tensor::ToDoubles() const {
  const auto widen = [](auto value) { return static_cast<double>(value); };
  switch (dtype) {
    case v1::BOOL:
      return Decode<uint8_t>(bytes, widen);
    case v1::INT32:
      return Decode<int32_t>(bytes, widen);
    case v1::INT64:
      return Decode<int64_t>(bytes, widen);
    case v1::FLOAT16:
      return Decode<uint16_t>(bytes, FromHalf);
    case v1::BFLOAT16:
      return Decode<uint16_t>(bytes, FromBFloat16);
    case v1::FLOAT32:
      return Decode<float>(bytes, widen);
    case v1::FLOAT64:
      return Decode<double>(bytes, widen);
    default:
      return {};
  }
}

std::string Tensor::DebugString() const {
  return absl::StrCat(Name(dtype), "[", absl::StrJoin(shape, ","), "]");
}

}  // namespace attnd::client
