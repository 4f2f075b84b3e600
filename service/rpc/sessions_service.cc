// attnd.v1.Sessions and attnd.v1.Models: translate and delegate.
#include <deque>
#include <memory>
#include <utility>

#include "attnd/v1/models.grpc.pb.h"
#include "attnd/v1/sessions.grpc.pb.h"
#include "service/rpc/call_parts.h"
#include "service/rpc/grpc_status.h"
#include "service/rpc/services.h"
#include "service/session/session_manager.h"

namespace attnd {
namespace {

using grpc::CallbackServerContext;

// Answers `call` with what a manager's call brings, in `response`.
template <typename Response>
auto AnswerTo(std::shared_ptr<UnaryCall> call, Response* response) {
  return [call = std::move(call), response](absl::StatusOr<Response> answer) {
    const grpc::Status status = ToGrpcStatus(answer.status());
    if (answer.ok()) *response = *std::move(answer);
    call->Finish(status);
  };
}

// A decode on its way to a client: a bounded queue, one write at a time. A client that reads slowly
// makes the decode pause, one that leaves ends it.
class DecodeStream final : public grpc::ServerWriteReactor<v1::DecodeEvent>, public DecodeSink {
 public:
  static grpc::ServerWriteReactor<v1::DecodeEvent>* Start(SessionManager& manager,
                                                          const v1::DecodeRequest& request) {
    auto stream = std::make_shared<DecodeStream>(manager, request.session());
    stream->self_ = stream;
    DecodeStream* const raw = stream.get();
    manager.Decode(request, std::move(stream));
    return raw;
  }

  DecodeStream(SessionManager& manager, std::string session)
      : manager_(manager), session_(std::move(session)) {}

  Answer Event(v1::DecodeEvent event) override {
    absl::MutexLock lock(&mu_);
    if (gone_) return Answer::kStop;
    queue_.push_back(std::move(event));
    if (!writing_) WriteNext();
    return queue_.size() < kQueued ? Answer::kGoOn : Answer::kPause;
  }

  void Paused() override {
    {
      absl::MutexLock lock(&mu_);
      paused_ = true;
      if (!gone_ && queue_.size() >= kQueued) return;
      paused_ = false;
    }
    manager_.Resume(session_);
  }

  void Done(absl::Status status) override {
    absl::MutexLock lock(&mu_);
    status_ = ToGrpcStatus(status);
    done_ = true;
    if (!writing_) Finish(status_);
  }

  void OnWriteDone(bool ok) override {
    bool resume = false;
    {
      absl::MutexLock lock(&mu_);
      writing_ = false;
      gone_ = gone_ || !ok;
      if (!gone_ && !queue_.empty()) {
        WriteNext();
      } else if (done_) {
        Finish(status_);
      }
      resume = std::exchange(paused_, paused_ && !gone_ && queue_.size() >= kQueued) && !paused_;
    }
    if (resume) manager_.Resume(session_);
  }

  void OnCancel() override {
    {
      absl::MutexLock lock(&mu_);
      gone_ = true;
      if (!std::exchange(paused_, false)) return;
    }
    manager_.Resume(session_);  // To hear that nobody listens.
  }

  void OnDone() override { const std::shared_ptr<DecodeStream> last = std::move(self_); }

 private:
  // Events that wait for a slow reader before its decode does.
  static constexpr size_t kQueued = 64;

  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    current_ = std::move(queue_.front());
    queue_.pop_front();
    writing_ = true;
    StartWrite(&current_);
  }

  SessionManager& manager_;
  const std::string session_;
  std::shared_ptr<DecodeStream> self_;
  absl::Mutex mu_;
  std::deque<v1::DecodeEvent> queue_ ABSL_GUARDED_BY(mu_);
  v1::DecodeEvent current_;  // Being written.
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool paused_ ABSL_GUARDED_BY(mu_) = false;
  bool gone_ ABSL_GUARDED_BY(mu_) = false;
  bool done_ ABSL_GUARDED_BY(mu_) = false;
  grpc::Status status_;
};

class SessionsService final : public v1::Sessions::CallbackService {
 public:
  explicit SessionsService(SessionManager& manager) : manager_(manager) {}

  grpc::ServerUnaryReactor* Create(CallbackServerContext*, const v1::CreateSessionRequest* request,
                                   v1::Session* response) override {
    return Call([&](auto done) { manager_.Create(*request, std::move(done)); }, response);
  }
  grpc::ServerUnaryReactor* Get(CallbackServerContext*, const v1::GetSessionRequest* request,
                                v1::Session* response) override {
    return Call([&](auto done) { manager_.Get(*request, std::move(done)); }, response);
  }
  grpc::ServerUnaryReactor* List(CallbackServerContext*, const v1::ListSessionsRequest* request,
                                 v1::ListSessionsResponse* response) override {
    return Call([&](auto done) { manager_.List(*request, std::move(done)); }, response);
  }
  grpc::ServerUnaryReactor* Append(CallbackServerContext*, const v1::AppendRequest* request,
                                   v1::AppendResponse* response) override {
    return Call([&](auto done) { manager_.Append(*request, std::move(done)); }, response);
  }
  grpc::ServerUnaryReactor* Fork(CallbackServerContext*, const v1::ForkRequest* request,
                                 v1::Session* response) override {
    return Call([&](auto done) { manager_.Fork(*request, std::move(done)); }, response);
  }
  grpc::ServerUnaryReactor* Rewind(CallbackServerContext*, const v1::RewindRequest* request,
                                   v1::Session* response) override {
    return Call([&](auto done) { manager_.Rewind(*request, std::move(done)); }, response);
  }
  grpc::ServerUnaryReactor* Delete(CallbackServerContext*, const v1::DeleteSessionRequest* request,
                                   v1::DeleteSessionResponse*) override {
    const std::shared_ptr<UnaryCall> call = UnaryCall::Start();
    manager_.Delete(*request,
                    [call](const absl::Status& status) { call->Finish(ToGrpcStatus(status)); });
    return call.get();
  }
  grpc::ServerWriteReactor<v1::DecodeEvent>* Decode(CallbackServerContext*,
                                                    const v1::DecodeRequest* request) override {
    return DecodeStream::Start(manager_, *request);
  }

 private:
  template <typename Invoke, typename Response>
  static grpc::ServerUnaryReactor* Call(Invoke invoke, Response* response) {
    const std::shared_ptr<UnaryCall> call = UnaryCall::Start();
    invoke(AnswerTo(call, response));
    return call.get();
  }

  SessionManager& manager_;
};

class ModelsService final : public v1::Models::CallbackService {
 public:
  explicit ModelsService(SessionManager& manager) : manager_(manager) {}

  grpc::ServerUnaryReactor* List(CallbackServerContext*, const v1::ListModelsRequest*,
                                 v1::ListModelsResponse* response) override {
    const std::shared_ptr<UnaryCall> call = UnaryCall::Start();
    manager_.ListModels(AnswerTo(call, response));
    return call.get();
  }
  grpc::ServerUnaryReactor* Load(CallbackServerContext*, const v1::LoadModelRequest* request,
                                 v1::Model* response) override {
    const std::shared_ptr<UnaryCall> call = UnaryCall::Start();
    manager_.LoadModel(request->name(), AnswerTo(call, response));
    return call.get();
  }
  grpc::ServerUnaryReactor* Tokenize(CallbackServerContext*, const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override {
    const std::shared_ptr<UnaryCall> call = UnaryCall::Start();
    manager_.Tokenize(*request, AnswerTo(call, response));
    return call.get();
  }

 private:
  SessionManager& manager_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeSessionsService(SessionManager& manager) {
  return std::make_unique<SessionsService>(manager);
}

std::unique_ptr<grpc::Service> MakeModelsService(SessionManager& manager) {
  return std::make_unique<ModelsService>(manager);
}

}  // namespace attnd
