#include "service/rpc/grpc_status.h"

#include "service/overload.h"

namespace attnd {
namespace {

// Clients accept 8 KiB of trailers, and a byte outside ASCII takes three there.
constexpr size_t kMaxMessage = 2048;

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

absl::string_view InferenceReason(const absl::Status& status) {
  if (IsOverload(status)) return "overload";
  if (absl::IsDeadlineExceeded(status)) return "deadline";
  return "";
}

}  // namespace attnd
