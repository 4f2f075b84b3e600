#include "service/rpc/grpc_status.h"

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "service/overload.h"

namespace attnd {
namespace {

// Clients accept 8 KiB of trailers, and a byte outside ASCII takes three there.
constexpr size_t kMaxMessage = 2048;

// Of the payload that carries a reason.
constexpr absl::string_view kReasonUrl = "attnd.v1/reason";

}  // namespace

std::string WireMessage(const absl::Status& status) {
  const absl::string_view message = status.message();
  if (message.size() <= kMaxMessage) return std::string(message);
  size_t length = kMaxMessage;
  // Never in the middle of a character.
  while (length > 0 && (static_cast<unsigned char>(message[length]) & 0xc0) == 0x80) --length;
  return absl::StrCat(message.substr(0, length), "...");
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), WireMessage(status));
}

grpc::Status ToInferenceStatus(const absl::Status& status) {
  if (InferenceReason(status).empty()) return ToGrpcStatus(status);
  return grpc::Status(grpc::StatusCode::UNAVAILABLE, WireMessage(status));
}

absl::Status AnswerTooLarge(absl::string_view op, size_t bytes, int64_t limit) {
  absl::Status status = absl::ResourceExhaustedError(
      absl::StrCat(op, ": outputs: the answer has ", bytes, " bytes, the limit is ", limit,
                   ": use attnd.v1.Operators.EvaluateStream, or ask for fewer outputs"));
  status.SetPayload(kReasonUrl, absl::Cord(kAnswerTooLarge));
  return status;
}

std::string ReasonOf(const absl::Status& status) {
  const auto reason = status.GetPayload(kReasonUrl);
  return reason ? std::string(*reason) : "";
}

absl::string_view InferenceReason(const absl::Status& status) {
  if (IsOverload(status)) return "overload";
  if (absl::IsDeadlineExceeded(status)) return "deadline";
  return "";
}

}  // namespace attnd
