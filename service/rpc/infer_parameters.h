// Parameters of an Open Inference Protocol request: reserved names, and attributes.
#ifndef ATTND_SERVICE_RPC_INFER_PARAMETERS_H_
#define ATTND_SERVICE_RPC_INFER_PARAMETERS_H_

#include <google/protobuf/map.h>

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "inference/grpc_service.pb.h"
#include "kernels/core/op_spec.h"
#include "service/rpc/infer_codec.h"

namespace attnd {

using InferParameters = google::protobuf::Map<std::string, inference::InferParameter>;

// What every model takes beside parameters of its own.
struct ReservedParameters {
  SequenceStep sequence;
  uint32_t priority = 0;
  absl::Time deadline = absl::InfiniteFuture();
  std::string kernel;
};

// Reads a parameter of a reserved name. nullopt: the name is not reserved.
std::optional<absl::Status> ReadReserved(absl::string_view op, absl::string_view name,
                                         const inference::InferParameter& value,
                                         ReservedParameters& out);

// A value as it appears in a refusal: "'text'", "7".
std::string Given(const inference::InferParameter& value);
// An integer, signed or unsigned as the client's language has it; nullopt: something else.
std::optional<int64_t> IntegerOf(const inference::InferParameter& value);

// Fills in the call's attributes, kernel, priority, deadline and sequence. A name that the schema
// has as an attribute is that attribute; what is neither an attribute nor reserved is passed on as
// one, so that Bind says which attributes there are.
absl::Status DecodeParameters(const OpSpec& spec, const InferParameters& parameters,
                              InferCall& call);

// An attribute's value from JSON text "[7, 7]": a list of numbers or of bools, nothing nested.
absl::StatusOr<AttrValue> ParseJsonList(absl::string_view op, absl::string_view name,
                                        absl::string_view text);

}  // namespace attnd

#endif  // ATTND_SERVICE_RPC_INFER_PARAMETERS_H_
