// Language models on the Open Inference Protocol: the model "lm.<name>" is the language model of
// that name, and a sequence of it is a session. A server has them itself, a router its workers'.
#ifndef ATTND_SERVICE_RPC_LANGUAGE_MODELS_H_
#define ATTND_SERVICE_RPC_LANGUAGE_MODELS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "inference/grpc_service.pb.h"
#include "service/cancel_token.h"
#include "service/rpc/wire.h"

namespace attnd {

// Whether a model's name means a language model, there or not.
bool IsLanguageModel(absl::string_view name);

// Safe from many threads. Every call answers once, on this thread or another. Models are named as
// clients name them.
class LanguageModels {
 public:
  using Message = std::shared_ptr<const inference::ModelInferRequest>;
  using Answered = absl::AnyInvocable<void(absl::StatusOr<MessageBuilder>)>;
  template <typename T>
  using Done = absl::AnyInvocable<void(absl::StatusOr<T>)>;
  using StatusDone = absl::AnyInvocable<void(absl::Status)>;

  virtual ~LanguageModels() = default;

  // One call, from a message to a ModelInferResponse of at most `max_bytes`. Errors:
  // INVALID_ARGUMENT "<model>: <input or parameter>: given ..., expected ..."; others as in
  // sessions.proto.
  virtual void Infer(const Message& message, absl::Time deadline,
                     std::shared_ptr<CancelToken> cancel, bool streamed, int64_t max_bytes,
                     Answered answered) = 0;

  // Reads the model where it is not loaded. NOT_FOUND if there is none, or not in that version.
  virtual void DescribeMetadata(const std::string& name, const std::string& version,
                                Done<inference::ModelMetadataResponse> done) = 0;
  virtual void DescribeConfig(const std::string& name, const std::string& version,
                              Done<inference::ModelConfig> done) = 0;

  virtual void Load(const std::string& name, StatusDone done) = 0;
  virtual void Unload(const std::string& name, StatusDone done) = 0;
  struct Listed {
    std::string name;
    bool loaded;
  };
  virtual void List(Done<std::vector<Listed>> done) = 0;

  // Of the model of that name; empty: of all that were called.
  virtual void Statistics(const std::string& name,
                          Done<std::vector<inference::ModelStatistics>> done) = 0;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_RPC_LANGUAGE_MODELS_H_
