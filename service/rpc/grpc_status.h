// absl::Status on the wire: the only place that knows gRPC's status codes.
#ifndef ATTND_SERVICE_RPC_GRPC_STATUS_H_
#define ATTND_SERVICE_RPC_GRPC_STATUS_H_

#include <grpcpp/support/status.h>

#include <cstddef>
#include <cstdint>
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

// The refusal of an answer that one message cannot carry: RESOURCE_EXHAUSTED, with the reason
// kAnswerTooLarge. What gRPC refuses to send would end a stream, and with it other calls.
inline constexpr absl::string_view kAnswerTooLarge = "answer-too-large";
absl::Status AnswerTooLarge(absl::string_view op, size_t bytes, int64_t limit);

// The reason that a status carries beside its code, else empty: for the trailer attnd-reason and
// CallError.reason.
std::string ReasonOf(const absl::Status& status);

// A message that any protobuf string may hold and that is not longer than trailers may be.
std::string WireMessage(const absl::Status& status);

}  // namespace attnd

#endif  // ATTND_SERVICE_RPC_GRPC_STATUS_H_
