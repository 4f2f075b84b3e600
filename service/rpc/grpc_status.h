// absl::Status on the wire: the only place that knows gRPC's status codes.
#ifndef ATTND_SERVICE_RPC_GRPC_STATUS_H_
#define ATTND_SERVICE_RPC_GRPC_STATUS_H_

#include <grpcpp/support/status.h>

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "service/guarded.h"

namespace attnd {

// The same code and message; messages are cut to what fits into trailers.
grpc::Status ToGrpcStatus(const absl::Status& status);

// As stock clients of the Open Inference Protocol expect it: overload and lateness are UNAVAILABLE.
// What will never fit stays RESOURCE_EXHAUSTED: to call again would not help.
grpc::Status ToInferenceStatus(const absl::Status& status);

// What ToInferenceStatus hides: "overload" or "deadline" for the trailer attnd-reason, else empty.
absl::string_view InferenceReason(const absl::Status& status);

// A message that any protobuf string may hold and that is not longer than trailers may be.
std::string WireMessage(const absl::Status& status);

}  // namespace attnd

#endif  // ATTND_SERVICE_RPC_GRPC_STATUS_H_
