#include "attnd/models.h"

#include <grpcpp/channel.h>

#include "attnd/v1/models.grpc.pb.h"
#include "clients/cpp/repeated_calls.h"

namespace attnd::client {

class Models::Calls final : public RepeatedCalls<v1::Models::Stub> {
 public:
  using RepeatedCalls::RepeatedCalls;
};

Models::Models(const Client& client, absl::Duration patience)
    : calls_(std::make_shared<Calls>(client, patience, v1::Models::NewStub(client.channel()))) {}
Models::~Models() = default;
Models::Models(const Models&) = default;
Models& Models::operator=(const Models&) = default;

absl::StatusOr<std::vector<v1::Model>> Models::List() const {
  const absl::StatusOr<v1::ListModelsResponse> listed =
      calls_->Unary<v1::ListModelsResponse>(&v1::Models::Stub::List, v1::ListModelsRequest());
  if (!listed.ok()) return listed.status();
  return std::vector<v1::Model>(listed->models().begin(), listed->models().end());
}

absl::StatusOr<v1::Model> Models::Load(const std::string& name) const {
  v1::LoadModelRequest request;
  request.set_name(name);
  return calls_->Unary<v1::Model>(&v1::Models::Stub::Load, request);
}

absl::Status Models::Unload(const std::string& name) const {
  v1::UnloadModelRequest request;
  request.set_name(name);
  return calls_->Unary<v1::UnloadModelResponse>(&v1::Models::Stub::Unload, request).status();
}

absl::Status Models::Generate(const v1::GenerateRequest& request,
                              absl::FunctionRef<bool(const v1::DecodeEvent&)> take) const {
  Patience patience(calls_->patience());
  for (;;) {
    grpc::ClientContext context;
    calls_->Prepare(context, true);
    const auto reader = calls_->stub().Generate(&context, request);
    v1::DecodeEvent event;
    bool came = false, wanted = true;
    while (wanted && reader->Read(&event)) {
      came = true;
      wanted = take(event);
    }
    if (!wanted) {
      context.TryCancel();
      while (reader->Read(&event)) {
      }
    }
    const grpc::Status status = reader->Finish();
    if (!wanted) return absl::CancelledError("the tokens were not wanted any more");
    if (status.ok()) return absl::OkStatus();
    if (came || !patience.Repeats(status)) return FromGrpc(status);
  }
}

absl::StatusOr<v1::ScoreResponse> Models::Score(const v1::ScoreRequest& request) const {
  return calls_->Unary<v1::ScoreResponse>(&v1::Models::Stub::Score, request);
}

}  // namespace attnd::client
