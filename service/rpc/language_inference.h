// Language models on the Open Inference Protocol: the model "lm.<name>" is the language model of
// that name, and a sequence of it is a session.
#ifndef ATTND_SERVICE_RPC_LANGUAGE_INFERENCE_H_
#define ATTND_SERVICE_RPC_LANGUAGE_INFERENCE_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "inference/grpc_service.pb.h"
#include "service/cancel_token.h"
#include "service/engine.h"
#include "service/rpc/wire.h"
#include "service/session/model_sequences.h"

namespace attnd {

// Whether a model's name means a language model, there or not.
bool IsLanguageModel(absl::string_view name);

// Safe from many threads. Calls about models answer once, on this thread or another.
class LanguageInference {
 public:
  using Message = std::shared_ptr<const inference::ModelInferRequest>;
  using Answered = absl::AnyInvocable<void(absl::StatusOr<MessageBuilder>)>;

  // `sequences` must outlive this.
  explicit LanguageInference(ModelSequences& sequences) : sequences_(sequences) {}

  // One call, from a message to a ModelInferResponse of at most `max_bytes`. Errors:
  // INVALID_ARGUMENT
  // "<model>: <input or parameter>: given ..., expected ..."; others as in sessions.proto.
  void Infer(const Message& message, absl::Time deadline, std::shared_ptr<CancelToken> cancel,
             bool streamed, int64_t max_bytes, Answered answered);

  // Reads the model where it is not loaded. NOT_FOUND if there is none, or not in that version.
  void DescribeMetadata(
      const std::string& name, absl::string_view version,
      absl::AnyInvocable<void(absl::StatusOr<inference::ModelMetadataResponse>)> done);
  void DescribeConfig(const std::string& name, absl::string_view version,
                      absl::AnyInvocable<void(absl::StatusOr<inference::ModelConfig>)> done);

  void Load(const std::string& name, SessionManager::StatusDone done);
  void Unload(const std::string& name, SessionManager::StatusDone done);
  // Names, as clients give them, and whether they are loaded.
  struct Listed {
    std::string name;
    bool loaded;
  };
  void List(absl::AnyInvocable<void(absl::StatusOr<std::vector<Listed>>)> done);

  // Of models that were called.
  std::vector<inference::ModelStatistics> Statistics() const ABSL_LOCKS_EXCLUDED(mu_);
  inference::ModelStatistics Statistics(const std::string& name) const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  void Count(const std::string& name, const absl::Status& status, absl::Duration duration)
      ABSL_LOCKS_EXCLUDED(mu_);
  void Describe(const std::string& name, absl::string_view version,
                absl::AnyInvocable<void(absl::StatusOr<v1::Model>)> done);

  ModelSequences& sequences_;
  mutable absl::Mutex mu_;
  std::map<std::string, Engine::OpStatistics> statistics_ ABSL_GUARDED_BY(mu_);
};

}  // namespace attnd

#endif  // ATTND_SERVICE_RPC_LANGUAGE_INFERENCE_H_
