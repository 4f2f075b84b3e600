// Open Inference Protocol requests for language models, to steps of sequences and back.
#ifndef ATTND_SERVICE_RPC_LANGUAGE_CODEC_H_
#define ATTND_SERVICE_RPC_LANGUAGE_CODEC_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "attnd/v1/models.pb.h"
#include "inference/grpc_service.pb.h"
#include "service/rpc/wire.h"
#include "service/session/model_sequences.h"

namespace attnd {

inline constexpr absl::string_view kLanguagePrefix = "lm.";

struct LanguageCall {
  SequenceStepCall step;  // `wanted` is the handler's to set.
  absl::Time deadline = absl::InfiniteFuture();
  std::string model_name;
  std::string id;
  std::vector<std::string> outputs;  // Empty: all but `logits`.
  bool Wants(absl::string_view output) const;
};

// The session that is a sequence of a model: "seq.n7.<model>" for the number 7,
// "seq.t<text>.<model>" for a text, whose bytes other than letters, digits and '-' are "_" and two
// hex digits. `id` as SequenceStep has it.
std::string SequenceSession(absl::string_view model, absl::string_view id);

// Tokens are copied out of the message.
absl::StatusOr<LanguageCall> DecodeLanguage(
    const std::shared_ptr<const inference::ModelInferRequest>& message);

// A ModelInferResponse with raw contents.
MessageBuilder EncodeLanguage(const LanguageCall& call, const SequenceStepAnswer& answer,
                              bool streamed);

inference::ModelMetadataResponse LanguageMetadata(const std::string& name, const v1::Model& model);
inference::ModelConfig LanguageConfig(const std::string& name, const v1::Model& model,
                                      absl::Duration sequence_idle);

}  // namespace attnd

#endif  // ATTND_SERVICE_RPC_LANGUAGE_CODEC_H_
