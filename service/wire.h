// Small values between their wire form and their form in memory.
#ifndef ATTND_SERVICE_WIRE_H_
#define ATTND_SERVICE_WIRE_H_

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "attnd/v1/operators.pb.h"
#include "attnd/v1/tensor.pb.h"
#include "grpcpp/support/status.h"
#include "kernels/core/attributes.h"
#include "kernels/core/dtype.h"
#include "kernels/core/numerics.h"
#include "service/engine.h"

namespace attnd {

v1::DataType ToWire(DType dtype);
std::optional<DType> FromWire(v1::DataType dtype);

void ToWire(const AttrValue& value, v1::AttributeValue* out);
// Empty if no kind is set.
std::optional<AttrValue> FromWire(const v1::AttributeValue& value);

v1::CompareResponse ToWire(const NumericsReport& report);
NumericsReport FromWire(const v1::CompareResponse& response);

void ToWire(const RandomCompare& random, v1::RandomInputs* out);
// INVALID_ARGUMENT for a type that is not a type; unspecified is float32.
absl::StatusOr<RandomCompare> FromWire(const v1::RandomInputs& random);

// Codes are the same on both sides.
absl::Status FromWire(const grpc::Status& status);

}  // namespace attnd

#endif  // ATTND_SERVICE_WIRE_H_
