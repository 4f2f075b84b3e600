// attnd.v1 messages to calls and back.
#ifndef ATTND_SERVICE_RPC_CODEC_H_
#define ATTND_SERVICE_RPC_CODEC_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "attnd/v1/operators.pb.h"
#include "kernels/core/call.h"
#include "kernels/core/numerics.h"
#include "kernels/core/registry.h"
#include "service/engine.h"
#include "service/rpc/wire.h"
#include "service/wire.h"

namespace attnd {

// A request of attnd.v1, decoded. What cannot be seen without the schema is left to Bind.
struct DecodedCall {
  const Operator* op = nullptr;
  EngineCall call;  // Deadline and cancellation are the handler's to set.
  std::vector<std::string> wanted;
  std::string request_id;
};

// Tensors are views into `message`, which they keep alive. NOT_FOUND for an unknown operator;
// INVALID_ARGUMENT naming the operator, the tensor or attribute, what was given and what is
// expected.
absl::StatusOr<DecodedCall> DecodeCall(const Registry& registry,
                                       const std::shared_ptr<const v1::EvaluateRequest>& message);

// Bytes of the tensors that a stream's header announces (without data); takes no memory.
// INVALID_ARGUMENT as DecodeCall; RESOURCE_EXHAUSTED if a tensor, or all of them, exceed the
// limits.
absl::StatusOr<int64_t> AnnouncedBytes(const v1::EvaluateRequest& message, int64_t max_tensor_bytes,
                                       int64_t max_call_bytes);

// The call of a header that AnnouncedBytes accepted, its inputs uninitialised. Wanted outputs are
// to be checked when the bytes are there.
absl::StatusOr<DecodedCall> DecodeHeader(const Registry& registry,
                                         const v1::EvaluateRequest& message);

// nullopt: the call itself has inputs. The sizes that a client fixes may not multiply to more than
// `max_elements`.
absl::StatusOr<std::optional<RandomCompare>> DecodeRandom(const v1::CompareRequest& message,
                                                          int64_t max_elements);

// An EvaluateResponse with or without the bytes of its tensors.
enum class Payload : uint8_t { kWithBytes, kWithoutBytes };
MessageBuilder EncodeResponse(const EngineResult& result, const NamedTensors& outputs,
                              const std::string& request_id, absl::Duration total, Payload payload);

v1::CallError EncodeError(const std::string& request_id, const absl::Status& status);
}  // namespace attnd

#endif  // ATTND_SERVICE_RPC_CODEC_H_
