// attnd.v1.Sessions and attnd.v1.Models: translate and delegate.
#include <memory>
#include <utility>

#include "attnd/v1/models.grpc.pb.h"
#include "attnd/v1/sessions.grpc.pb.h"
#include "service/rpc/call_parts.h"
#include "service/rpc/grpc_status.h"
#include "service/rpc/services.h"
#include "service/rpc/session_streams.h"
#include "service/session/fault_point.h"
#include "service/session/session_manager.h"

namespace attnd {
namespace {

using grpc::CallbackServerContext;

// Starts a call that ends with what a manager's call brings, in `response`.
template <typename Invoke, typename Response>
grpc::ServerUnaryReactor* Call(Invoke invoke, Response* response) {
  const std::shared_ptr<UnaryCall> call = UnaryCall::Start();
  invoke([call, response](absl::StatusOr<Response> answer) {
    const grpc::Status status = ToGrpcStatus(answer.status());
    if (answer.ok()) *response = *std::move(answer);
    FaultPoint("answer.before");
    call->Finish(status);
    FaultPoint("answer.after");
  });
  return call.get();
}

template <typename Invoke>
grpc::ServerUnaryReactor* CallWithoutAnswer(Invoke invoke) {
  const std::shared_ptr<UnaryCall> call = UnaryCall::Start();
  invoke([call](const absl::Status& status) { call->Finish(ToGrpcStatus(status)); });
  return call.get();
}

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
    return CallWithoutAnswer([&](auto done) { manager_.Delete(*request, std::move(done)); });
  }
  grpc::ServerWriteReactor<v1::DecodeEvent>* Decode(CallbackServerContext*,
                                                    const v1::DecodeRequest* request) override {
    return StartDecode(manager_, *request);
  }
  grpc::ServerBidiReactor<v1::ConverseRequest, v1::ConverseEvent>* Converse(
      CallbackServerContext*) override {
    return StartConverse(manager_);
  }
  grpc::ServerUnaryReactor* Snapshot(CallbackServerContext*, const v1::SnapshotRequest* request,
                                     v1::SnapshotInfo* response) override {
    return Call([&](auto done) { manager_.Snapshot(*request, std::move(done)); }, response);
  }
  grpc::ServerUnaryReactor* ListSnapshots(CallbackServerContext*,
                                          const v1::ListSnapshotsRequest* request,
                                          v1::ListSnapshotsResponse* response) override {
    return Call([&](auto done) { manager_.ListSnapshots(*request, std::move(done)); }, response);
  }
  grpc::ServerUnaryReactor* Restore(CallbackServerContext*, const v1::RestoreRequest* request,
                                    v1::Session* response) override {
    return Call([&](auto done) { manager_.Restore(*request, std::move(done)); }, response);
  }
  grpc::ServerUnaryReactor* DeleteSnapshot(CallbackServerContext*,
                                           const v1::DeleteSnapshotRequest* request,
                                           v1::DeleteSnapshotResponse*) override {
    return CallWithoutAnswer(
        [&](auto done) { manager_.DeleteSnapshot(*request, std::move(done)); });
  }
  grpc::ServerWriteReactor<v1::FileChunk>* Export(CallbackServerContext*,
                                                  const v1::ExportRequest* request) override {
    return StartExport(manager_, *request);
  }
  grpc::ServerReadReactor<v1::ImportChunk>* Import(CallbackServerContext*,
                                                   v1::Session* response) override {
    return StartImport(manager_, response);
  }

 private:
  SessionManager& manager_;
};

class ModelsService final : public v1::Models::CallbackService {
 public:
  explicit ModelsService(SessionManager& manager) : manager_(manager) {}

  grpc::ServerUnaryReactor* List(CallbackServerContext*, const v1::ListModelsRequest*,
                                 v1::ListModelsResponse* response) override {
    return Call([&](auto done) { manager_.ListModels(std::move(done)); }, response);
  }
  grpc::ServerUnaryReactor* Load(CallbackServerContext*, const v1::LoadModelRequest* request,
                                 v1::Model* response) override {
    return Call([&](auto done) { manager_.LoadModel(request->name(), std::move(done)); }, response);
  }
  grpc::ServerUnaryReactor* Unload(CallbackServerContext*, const v1::UnloadModelRequest* request,
                                   v1::UnloadModelResponse*) override {
    return CallWithoutAnswer(
        [&](auto done) { manager_.UnloadModel(request->name(), std::move(done)); });
  }
  grpc::ServerWriteReactor<v1::DecodeEvent>* Generate(CallbackServerContext*,
                                                      const v1::GenerateRequest* request) override {
    return StartGenerate(manager_, *request);
  }
  grpc::ServerUnaryReactor* Score(CallbackServerContext*, const v1::ScoreRequest* request,
                                  v1::ScoreResponse* response) override {
    const std::shared_ptr<UnaryCall> call = UnaryCall::Start();
    manager_.Score(
        *request, [cancel = call->cancel()] { return cancel->cancelled(); },
        [call, response](absl::StatusOr<v1::ScoreResponse> answer) {
          const grpc::Status status = ToGrpcStatus(answer.status());
          if (answer.ok()) *response = *std::move(answer);
          call->Finish(status);
        });
    return call.get();
  }
  grpc::ServerUnaryReactor* Tokenize(CallbackServerContext*, const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override {
    return Call([&](auto done) { manager_.Tokenize(*request, std::move(done)); }, response);
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
