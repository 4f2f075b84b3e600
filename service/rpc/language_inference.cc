#include "service/rpc/language_inference.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "service/rpc/grpc_status.h"
#include "service/rpc/infer_codec.h"
#include "service/rpc/language_codec.h"
#include "service/rpc/model_description.h"
#include "service/rpc/wire_tensor.h"

namespace attnd {
namespace {

absl::Status CheckVersion(absl::string_view name, absl::string_view version) {
  if (version.empty() || version == kModelVersion) return absl::OkStatus();
  return absl::NotFoundError(absl::StrCat(name, ": version: given '", Quoted(version),
                                          "', expected '", kModelVersion, "' or none"));
}

std::string Plain(absl::string_view name) {
  return std::string(absl::StripPrefix(name, kLanguagePrefix));
}

}  // namespace

bool IsLanguageModel(absl::string_view name) { return absl::StartsWith(name, kLanguagePrefix); }

void LanguageInference::Infer(const Message& message, absl::Time deadline,
                              std::shared_ptr<CancelToken> cancel, bool streamed, int64_t max_bytes,
                              Answered answered) {
  absl::StatusOr<LanguageCall> decoded = Guarded([&]() -> absl::StatusOr<LanguageCall> {
    if (absl::Status s = CheckVersion(message->model_name(), message->model_version()); !s.ok()) {
      return s;
    }
    return DecodeLanguage(message);
  });
  if (!decoded.ok()) return answered(decoded.status());
  auto call = std::make_shared<LanguageCall>(*std::move(decoded));
  SequenceStepCall step = std::move(call->step);
  step.wanted = [cancel = std::move(cancel), until = std::min(deadline, call->deadline),
                 model = call->model_name]() -> absl::Status {
    const absl::Time now = absl::Now();
    if (cancel != nullptr && cancel->cancelled() && !LeftForDeadline(now, until)) {
      return absl::CancelledError(absl::StrCat(model, ": the client went away"));
    }
    if (now < until && (cancel == nullptr || !cancel->cancelled())) return absl::OkStatus();
    return absl::DeadlineExceededError(
        absl::StrCat(model, ": the deadline passed before the answer was there"));
  };
  sequences_.Run(std::move(step),
                 [this, call, streamed, max_bytes, start = absl::Now(),
                  answered = std::move(answered)](absl::StatusOr<SequenceStepAnswer> ran) mutable {
                   Count(call->model_name, ran.status(), absl::Now() - start);
                   if (!ran.ok()) return answered(ran.status());
                   MessageBuilder answer = EncodeLanguage(*call, *ran, streamed);
                   const size_t size = answer.size() + kEnvelopeBytes;
                   if (static_cast<int64_t>(size) > max_bytes) {
                     return answered(AnswerTooLarge(call->model_name, size, max_bytes));
                   }
                   answered(std::move(answer));
                 });
}

void LanguageInference::Describe(const std::string& name, absl::string_view version,
                                 Done<v1::Model> done) {
  if (absl::Status s = CheckVersion(name, version); !s.ok()) return done(s);
  sequences_.manager().LoadModel(Plain(name), std::move(done));
}

void LanguageInference::DescribeMetadata(const std::string& name, const std::string& version,
                                         Done<inference::ModelMetadataResponse> done) {
  Describe(name, version, [name, done = std::move(done)](absl::StatusOr<v1::Model> model) mutable {
    if (!model.ok()) return done(model.status());
    done(LanguageMetadata(name, *model));
  });
}

void LanguageInference::DescribeConfig(const std::string& name, const std::string& version,
                                       Done<inference::ModelConfig> done) {
  Describe(name, version,
           [this, name, done = std::move(done)](absl::StatusOr<v1::Model> model) mutable {
             if (!model.ok()) return done(model.status());
             done(LanguageConfig(name, *model, absl::Seconds(sequences_.idle_seconds())));
           });
}

void LanguageInference::Load(const std::string& name, StatusDone done) {
  Describe(name, "", [done = std::move(done)](const absl::StatusOr<v1::Model>& model) mutable {
    done(model.status());
  });
}

void LanguageInference::Unload(const std::string& name, StatusDone done) {
  sequences_.manager().UnloadModel(Plain(name), std::move(done));
}

void LanguageInference::List(Done<std::vector<Listed>> done) {
  sequences_.manager().ListModels(
      [done = std::move(done)](absl::StatusOr<v1::ListModelsResponse> models) mutable {
        if (!models.ok()) return done(models.status());
        std::vector<Listed> names;
        for (const v1::Model& model : models->models()) {
          names.push_back({absl::StrCat(kLanguagePrefix, model.name()), model.loaded()});
        }
        done(std::move(names));
      });
}

void LanguageInference::Count(const std::string& name, const absl::Status& status,
                              absl::Duration duration) {
  const auto ns = static_cast<uint64_t>(std::max<int64_t>(0, absl::ToInt64Nanoseconds(duration)));
  // Names that no model has are not kept.
  if (absl::IsNotFound(status) || absl::IsInvalidArgument(status)) return;
  absl::MutexLock lock(&mu_);
  Engine::OpStatistics& statistics = statistics_[name];
  if (!status.ok()) {
    ++statistics.fail_count;
    statistics.fail_ns += ns;
    return;
  }
  ++statistics.success_count;
  ++statistics.inference_count;
  ++statistics.execution_count;
  statistics.success_ns += ns;
  statistics.compute_ns += ns;
  statistics.last_inference = absl::Now();
}

void LanguageInference::Statistics(const std::string& name,
                                   Done<std::vector<inference::ModelStatistics>> done) {
  std::vector<inference::ModelStatistics> found;
  {
    absl::MutexLock lock(&mu_);
    for (const auto& [model, statistics] : statistics_) {
      if (name.empty() || name == model) found.push_back(DescribeStatistics(model, statistics));
    }
  }
  if (!name.empty() && found.empty()) found.push_back(DescribeStatistics(name, {}));
  done(std::move(found));
}

}  // namespace attnd
