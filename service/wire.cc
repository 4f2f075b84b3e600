#include "service/wire.h"

#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"

namespace attnd {

v1::DataType ToWire(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return v1::BOOL;
    case DType::kInt32:
      return v1::INT32;
    case DType::kInt64:
      return v1::INT64;
    case DType::kFloat16:
      return v1::FLOAT16;
    case DType::kBFloat16:
      return v1::BFLOAT16;
    case DType::kFloat32:
      return v1::FLOAT32;
    case DType::kFloat64:
      return v1::FLOAT64;
  }
  return v1::DATA_TYPE_UNSPECIFIED;
}

std::optional<DType> FromWire(v1::DataType dtype) {
  switch (dtype) {
    case v1::BOOL:
      return DType::kBool;
    case v1::INT32:
      return DType::kInt32;
    case v1::INT64:
      return DType::kInt64;
    case v1::FLOAT16:
      return DType::kFloat16;
    case v1::BFLOAT16:
      return DType::kBFloat16;
    case v1::FLOAT32:
      return DType::kFloat32;
    case v1::FLOAT64:
      return DType::kFloat64;
    default:
      return std::nullopt;
  }
}

void ToWire(const AttrValue& value, v1::AttributeValue* out) {
  std::visit(
      [out](const auto& v) {
        using V = std::decay_t<decltype(v)>;
        if constexpr (std::is_same_v<V, bool>) {
          out->set_bool_value(v);
        } else if constexpr (std::is_same_v<V, int64_t>) {
          out->set_int_value(v);
        } else if constexpr (std::is_same_v<V, double>) {
          out->set_float_value(v);
        } else if constexpr (std::is_same_v<V, std::string>) {
          out->set_string_value(v);
        } else if constexpr (std::is_same_v<V, std::vector<bool>>) {
          auto* list = out->mutable_bool_list()->mutable_values();
          for (const bool b : v) list->Add(b);
        } else if constexpr (std::is_same_v<V, std::vector<int64_t>>) {
          out->mutable_int_list()->mutable_values()->Assign(v.begin(), v.end());
        } else {
          out->mutable_float_list()->mutable_values()->Assign(v.begin(), v.end());
        }
      },
      value);
}

std::optional<AttrValue> FromWire(const v1::AttributeValue& value) {
  const auto list = [](const auto& values) { return std::vector(values.begin(), values.end()); };
  switch (value.kind_case()) {
    case v1::AttributeValue::kBoolValue:
      return value.bool_value();
    case v1::AttributeValue::kIntValue:
      return value.int_value();
    case v1::AttributeValue::kFloatValue:
      return value.float_value();
    case v1::AttributeValue::kStringValue:
      return value.string_value();
    case v1::AttributeValue::kIntList:
      return list(value.int_list().values());
    case v1::AttributeValue::kFloatList:
      return list(value.float_list().values());
    case v1::AttributeValue::kBoolList:
      return list(value.bool_list().values());
    case v1::AttributeValue::KIND_NOT_SET:
      return std::nullopt;
  }
  return std::nullopt;
}

v1::CompareResponse ToWire(const NumericsReport& report) {
  v1::CompareResponse out;
  out.set_kernel(report.kernel);
  out.set_device(report.device);
  out.set_reference(report.reference);
  for (const ErrorReport& error : report.outputs) {
    v1::ErrorReport* to = out.add_outputs();
    to->set_output(error.output);
    to->set_max_abs(error.max_abs);
    to->set_max_rel(error.max_rel);
    to->set_relative(error.relative);
    to->set_rmse(error.rmse);
    to->set_cosine(error.cosine);
    to->set_ulp_p50(error.ulp_p50);
    to->set_ulp_p99(error.ulp_p99);
    to->set_ulp_max(error.ulp_max);
    to->set_nan_count(error.nan_count);
    to->set_inf_count(error.inf_count);
    to->set_nonfinite_mismatch(error.nonfinite_mismatch);
    to->mutable_worst_index()->Assign(error.worst_index.begin(), error.worst_index.end());
  }
  out.set_bitwise_repeatable(report.bitwise_repeatable);
  out.set_compute_us(report.compute_seconds * 1e6);
  out.set_reference_us(report.reference_seconds * 1e6);
  out.set_tolerance(report.tolerance);
  out.set_within_tolerance(report.within_tolerance);
  return out;
}

NumericsReport FromWire(const v1::CompareResponse& response) {
  NumericsReport report;
  report.kernel = response.kernel();
  report.device = response.device();
  report.reference = response.reference();
  for (const v1::ErrorReport& from : response.outputs()) {
    ErrorReport error;
    error.output = from.output();
    error.max_abs = from.max_abs();
    error.max_rel = from.max_rel();
    error.relative = from.relative();
    error.rmse = from.rmse();
    error.cosine = from.cosine();
    error.ulp_p50 = from.ulp_p50();
    error.ulp_p99 = from.ulp_p99();
    error.ulp_max = from.ulp_max();
    error.nan_count = static_cast<int64_t>(from.nan_count());
    error.inf_count = static_cast<int64_t>(from.inf_count());
    error.nonfinite_mismatch = static_cast<int64_t>(from.nonfinite_mismatch());
    error.worst_index.assign(from.worst_index().begin(), from.worst_index().end());
    report.outputs.push_back(std::move(error));
  }
  report.bitwise_repeatable = response.bitwise_repeatable();
  report.compute_seconds = response.compute_us() * 1e-6;
  report.reference_seconds = response.reference_us() * 1e-6;
  report.tolerance = response.tolerance();
  report.within_tolerance = response.within_tolerance();
  return report;
}

void ToWire(const RandomCompare& random, v1::RandomInputs* out) {
  out->set_seed(random.seed);
  out->set_dtype(ToWire(random.dtype));
  for (const auto& [symbol, size] : random.dims) (*out->mutable_dims())[symbol] = size;
}

absl::StatusOr<RandomCompare> FromWire(const v1::RandomInputs& random) {
  RandomCompare out;
  out.seed = random.seed();
  if (random.dtype() != v1::DATA_TYPE_UNSPECIFIED) {
    const std::optional<DType> dtype = FromWire(random.dtype());
    if (!dtype.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat("random.dtype: given ",
                                                     static_cast<int>(random.dtype()),
                                                     ", expected a value of DataType"));
    }
    out.dtype = *dtype;
  }
  for (const auto& [symbol, size] : random.dims()) out.dims.Set(symbol, size);
  return out;
}

absl::Status FromWire(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace attnd
