// The language models of this process on the Open Inference Protocol.
#ifndef ATTND_SERVICE_RPC_LANGUAGE_INFERENCE_H_
#define ATTND_SERVICE_RPC_LANGUAGE_INFERENCE_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "service/engine.h"
#include "service/rpc/language_models.h"
#include "service/session/model_sequences.h"

namespace attnd {

class LanguageInference final : public LanguageModels {
 public:
  // `sequences` must outlive this.
  explicit LanguageInference(ModelSequences& sequences) : sequences_(sequences) {}

  void Infer(const Message& message, absl::Time deadline, std::shared_ptr<CancelToken> cancel,
             bool streamed, int64_t max_bytes, Answered answered) override;
  void DescribeMetadata(const std::string& name, const std::string& version,
                        Done<inference::ModelMetadataResponse> done) override;
  void DescribeConfig(const std::string& name, const std::string& version,
                      Done<inference::ModelConfig> done) override;
  void Load(const std::string& name, StatusDone done) override;
  void Unload(const std::string& name, StatusDone done) override;
  void List(Done<std::vector<Listed>> done) override;
  void Statistics(const std::string& name,
                  Done<std::vector<inference::ModelStatistics>> done) override
      ABSL_LOCKS_EXCLUDED(mu_);

 private:
  void Count(const std::string& name, const absl::Status& status, absl::Duration duration)
      ABSL_LOCKS_EXCLUDED(mu_);
  void Describe(const std::string& name, absl::string_view version, Done<v1::Model> done);

  ModelSequences& sequences_;
  absl::Mutex mu_;
  std::map<std::string, Engine::OpStatistics> statistics_ ABSL_GUARDED_BY(mu_);
};

}  // namespace attnd

#endif  // ATTND_SERVICE_RPC_LANGUAGE_INFERENCE_H_
