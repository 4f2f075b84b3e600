// The gRPC services of the front: what a server registers. Handlers translate and delegate; they
// never block and hold no state but sequences.
#ifndef ATTND_SERVICE_RPC_SERVICES_H_
#define ATTND_SERVICE_RPC_SERVICES_H_

#include <grpcpp/impl/codegen/service_type.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "service/engine.h"
#include "service/session/sequence_store.h"

namespace attnd {

struct RpcLimits {
  // Of one message, either way; the server's channel must allow at least as much.
  int64_t max_message_bytes = int64_t{64} << 20;
  // Of one tensor, and of all inputs of one call, that arrive on a stream.
  int64_t max_tensor_bytes = int64_t{4} << 30;
  int64_t max_call_bytes = int64_t{8} << 30;
  // Of the inputs of all streamed calls together.
  int64_t max_buffer_bytes = int64_t{8} << 30;
  // Calls of one stream that are under way; the next is read when one is answered.
  int max_calls_per_stream = 64;
  // Bytes of a tensor in one chunk of a streamed answer.
  int64_t chunk_bytes = int64_t{1} << 20;
};

// Whether a method ("attnd.v1.Operators/Evaluate") takes and gives bytes, so that tensors are
// copied once at most; all others have messages.
bool TakesBytes(absl::string_view method);

// attnd.v1.Operators. The engine must outlive the service, and the service the server.
std::unique_ptr<grpc::Service> MakeOperatorsService(Engine& engine, const RpcLimits& limits);

// inference.GRPCInferenceService: the Open Inference Protocol with the extensions that stock
// clients call. Sequences (sequence_id) keep their states in `sequences`, which must outlive the
// service. `models` are the language models; null: there are none. `version` is what ServerMetadata
// tells.
class LanguageModels;
std::unique_ptr<grpc::Service> MakeInferenceService(Engine& engine, SequenceStore& sequences,
                                                    std::unique_ptr<LanguageModels> models,
                                                    const RpcLimits& limits, std::string version);

class SessionManager;

// attnd.v1.Sessions and attnd.v1.Models. The manager must outlive the services.
std::unique_ptr<grpc::Service> MakeSessionsService(SessionManager& manager);
std::unique_ptr<grpc::Service> MakeModelsService(SessionManager& manager);

}  // namespace attnd

#endif  // ATTND_SERVICE_RPC_SERVICES_H_
