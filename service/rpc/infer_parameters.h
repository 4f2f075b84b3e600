// Parameters of an Open Inference Protocol request: reserved names, and attributes.
#ifndef ATTND_SERVICE_RPC_INFER_PARAMETERS_H_
#define ATTND_SERVICE_RPC_INFER_PARAMETERS_H_

#include <google/protobuf/map.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "inference/grpc_service.pb.h"
#include "kernels/core/op_spec.h"
#include "service/rpc/infer_codec.h"

namespace attnd {

using InferParameters = google::protobuf::Map<std::string, inference::InferParameter>;

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
