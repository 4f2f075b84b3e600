// The manager's calls about models.
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/session/requests.h"
#include "service/session/session_manager.h"

namespace attnd {
namespace {

v1::Model Describe(const LoadedModel& loaded, const std::string& device) {
  v1::Model out;
  out.set_device(device);
  const models::ModelConfig& config = loaded.model->config();
  out.set_name(loaded.name);
  out.set_model_type(config.model_type);
  out.set_loaded(true);
  out.set_vocab_size(static_cast<uint64_t>(config.vocab_size));
  out.set_layers(static_cast<uint64_t>(config.layers));
  out.set_weights_hash(loaded.model->weights_hash());
  int64_t fixed = 0, per_token = 0;
  for (const models::LayerLayout& layout : loaded.model->layouts()) {
    fixed += layout.fixed;
    per_token += layout.page / models::kPagePositions;
  }
  out.set_state_bytes(static_cast<uint64_t>(fixed) * sizeof(float));
  out.set_state_bytes_per_token(static_cast<uint64_t>(per_token) * sizeof(float));
  out.set_card(loaded.card);
  return out;
}

}  // namespace

void SessionManager::ListModels(
    absl::AnyInvocable<void(absl::StatusOr<v1::ListModelsResponse>)> done) {
  writer_.Run([this, done = std::move(done)]() mutable {
    v1::ListModelsResponse response;
    for (const std::string& name : models_.names()) {
      const std::shared_ptr<const LoadedModel> loaded = models_.Find(name);
      if (loaded != nullptr) {
        *response.add_models() = Describe(*loaded, models_.device_name());
      } else {
        v1::Model& there = *response.add_models();
        there.set_name(name);
        there.set_device(models_.device_name());
      }
    }
    done(std::move(response));
  });
}

void SessionManager::LoadModel(const std::string& name,
                               absl::AnyInvocable<void(absl::StatusOr<v1::Model>)> done) {
  writer_.Run([this, name, done = std::move(done)]() mutable {
    const absl::StatusOr<std::shared_ptr<const LoadedModel>> loaded = models_.Load(name);
    if (!loaded.ok()) return done(loaded.status());
    done(Describe(**loaded, models_.device_name()));
  });
}

void SessionManager::UnloadModel(const std::string& name, StatusDone done) {
  // On the writer's thread, on which models are loaded and sessions come into memory: none does
  // meanwhile.
  writer_.Run([this, name, done = std::move(done)]() mutable {
    const std::shared_ptr<const LoadedModel> model = models_.Find(name);
    if (model == nullptr) return done(models_.CheckKnown(name));
    std::vector<SessionPtr> own;
    size_t calls = 0;
    {
      absl::MutexLock lock(&mu_);
      const auto scoring = scoring_.find(model.get());
      if (scoring != scoring_.end()) calls += scoring->second;
      for (const SessionPtr& session : transients_) calls += session->model == model ? 1 : 0;
      for (const auto& [id, session] : sessions_) {
        if (session->model == model) own.push_back(session);
      }
    }
    absl::Status status;
    const auto refuse = [&](absl::string_view what) {
      status = absl::FailedPreconditionError(absl::StrCat("model ", name, ": ", what));
    };
    if (calls > 0) refuse(absl::StrCat(calls, " calls run on it: unload it when they have ended"));
    // A turn at each of its sessions, so that nothing begins on it.
    std::vector<SessionPtr> held;
    for (const SessionPtr& session : own) {
      if (!status.ok()) break;
      if (session->durability == Durability::kNone) {
        refuse(absl::StrCat("session ", session->id(),
                            " of durability NONE is its, which no store keeps: delete it first"));
      } else if (!session->Enter(0, [] {}).ok()) {
        refuse(absl::StrCat("a call of session ", session->id(),
                            " runs on it: unload it when it has ended"));
      } else {
        held.push_back(session);
      }
    }
    if (status.ok()) {
      for (const SessionPtr& session : held) {
        // A state that the store does not take is computed again.
        (void)StoreStates(*session);
        Forget(session);
      }
      {
        absl::MutexLock lock(&mu_);
        scoring_.erase(model.get());
      }
      models_.Unload(name);
    }
    for (const SessionPtr& session : held) session->Leave();
    done(status);
  });
}

void SessionManager::Tokenize(v1::TokenizeRequest request,
                              absl::AnyInvocable<void(absl::StatusOr<v1::TokenizeResponse>)> done) {
  writer_.Run([this, request = std::move(request), done = std::move(done)]() mutable {
    const absl::StatusOr<std::shared_ptr<const LoadedModel>> loaded = models_.Load(request.model());
    if (!loaded.ok()) return done(loaded.status());
    const absl::StatusOr<std::vector<int32_t>> tokens =
        TokensOf(**loaded, request.tokens(), request.text());
    if (!tokens.ok()) return done(tokens.status());
    v1::TokenizeResponse response;
    response.mutable_tokens()->Assign(tokens->begin(), tokens->end());
    models::TextStream text;
    for (const int32_t token : *tokens) {
      response.mutable_text()->append(text.Add((*loaded)->tokenizer->Bytes(token)));
    }
    response.mutable_text()->append(text.Finish());
    done(std::move(response));
  });
}

}  // namespace attnd
