#include "attnd/sessions.h"

#include <google/protobuf/message.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <openssl/evp.h>

#include <algorithm>
#include <utility>

#include "absl/random/random.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "attnd/v1/sessions.grpc.pb.h"
#include "clients/cpp/messages.h"
#include "clients/cpp/repeated_calls.h"

namespace attnd::client {
namespace {

constexpr size_t kChunk = size_t{1} << 20;

std::string NewKey() {
  absl::BitGen random;
  return absl::StrCat(absl::Hex(absl::Uniform<uint64_t>(random), absl::kZeroPad16),
                      absl::Hex(absl::Uniform<uint64_t>(random), absl::kZeroPad16));
}

std::string Sha256(absl::string_view bytes) {
  std::string hash(32, '\0');
  EVP_Digest(bytes.data(), bytes.size(), reinterpret_cast<unsigned char*>(hash.data()), nullptr,
             EVP_sha256(), nullptr);
  return hash;
}

}  // namespace

class Sessions::Calls final : public RepeatedCalls<v1::Sessions::Stub> {
 public:
  using RepeatedCalls::RepeatedCalls;

  // A mutation, which happens once however often it is sent.
  template <typename Response, typename Request, typename Method>
  absl::StatusOr<Response> Mutation(Method method, Request request) const {
    if (request.idempotency_key().empty() && !request.has_expected_position()) {
      request.set_idempotency_key(NewKey());
    }
    return Unary<Response>(method, request);
  }
};

Sessions::Sessions(const Client& client, absl::Duration patience)
    : calls_(std::make_shared<Calls>(client, patience, v1::Sessions::NewStub(client.channel()))) {}
Sessions::~Sessions() = default;
Sessions::Sessions(const Sessions&) = default;
Sessions& Sessions::operator=(const Sessions&) = default;

absl::StatusOr<v1::Session> Sessions::Create(v1::CreateSessionRequest request) const {
  // Its name is its key: one that the server chose could not be asked for again.
  if (request.session().empty()) request.set_session(NewKey());
  return calls_->Unary<v1::Session>(&v1::Sessions::Stub::Create, request);
}

absl::StatusOr<v1::Session> Sessions::Create(
    v1::CreateSessionRequest request, const std::map<std::string, Attribute>& attributes) const {
  Call call;
  call.attributes = attributes;
  const v1::EvaluateRequest message = ToRequest(std::move(call));
  *request.mutable_attributes() = message.attributes();
  return Create(std::move(request));
}

absl::StatusOr<v1::Session> Sessions::Get(const std::string& session) const {
  v1::GetSessionRequest request;
  request.set_session(session);
  return calls_->Unary<v1::Session>(&v1::Sessions::Stub::Get, request);
}

absl::StatusOr<std::vector<v1::Session>> Sessions::List(const std::string& prefix) const {
  v1::ListSessionsRequest request;
  request.set_prefix(prefix);
  request.set_limit(1000);
  std::vector<v1::Session> sessions;
  do {
    const absl::StatusOr<v1::ListSessionsResponse> page =
        calls_->Unary<v1::ListSessionsResponse>(&v1::Sessions::Stub::List, request);
    if (!page.ok()) return page.status();
    sessions.insert(sessions.end(), page->sessions().begin(), page->sessions().end());
    request.set_after(page->next());
  } while (!request.after().empty());
  return sessions;
}

absl::StatusOr<v1::AppendResponse> Sessions::Append(v1::AppendRequest request) const {
  return calls_->Mutation<v1::AppendResponse>(&v1::Sessions::Stub::Append, std::move(request));
}

absl::StatusOr<Fed> Sessions::Feed(v1::AppendRequest request,
                                   std::map<std::string, Tensor> inputs) const {
  Call call;
  call.inputs = std::move(inputs);
  v1::EvaluateRequest message = ToRequest(std::move(call));
  request.mutable_inputs()->swap(*message.mutable_inputs());
  absl::StatusOr<v1::AppendResponse> appended = Append(std::move(request));
  if (!appended.ok()) return appended.status();
  v1::EvaluateResponse response;
  response.mutable_outputs()->swap(*appended->mutable_outputs());
  response.set_kernel(appended->kernel());
  response.set_device(appended->device());
  absl::StatusOr<Result> result = FromResponse(response);
  if (!result.ok()) return result.status();
  return Fed{*std::move(result), appended->position(), appended->repeated_request()};
}

absl::StatusOr<v1::Session> Sessions::Fork(v1::ForkRequest request) const {
  if (request.new_session().empty()) request.set_new_session(NewKey());
  return calls_->Unary<v1::Session>(&v1::Sessions::Stub::Fork, request);
}

absl::StatusOr<v1::Session> Sessions::Rewind(v1::RewindRequest request) const {
  return calls_->Mutation<v1::Session>(&v1::Sessions::Stub::Rewind, std::move(request));
}

absl::StatusOr<v1::SnapshotInfo> Sessions::Snapshot(v1::SnapshotRequest request) const {
  return calls_->Mutation<v1::SnapshotInfo>(&v1::Sessions::Stub::Snapshot, std::move(request));
}

absl::StatusOr<v1::Session> Sessions::Restore(v1::RestoreRequest request) const {
  return calls_->Mutation<v1::Session>(&v1::Sessions::Stub::Restore, std::move(request));
}

absl::StatusOr<std::vector<v1::SnapshotInfo>> Sessions::ListSnapshots(
    const std::string& session) const {
  v1::ListSnapshotsRequest request;
  request.set_session(session);
  const absl::StatusOr<v1::ListSnapshotsResponse> listed =
      calls_->Unary<v1::ListSnapshotsResponse>(&v1::Sessions::Stub::ListSnapshots, request);
  if (!listed.ok()) return listed.status();
  return std::vector<v1::SnapshotInfo>(listed->snapshots().begin(), listed->snapshots().end());
}

absl::Status Sessions::DeleteSnapshot(const std::string& session,
                                      const std::string& snapshot) const {
  v1::DeleteSnapshotRequest request;
  request.set_session(session);
  request.set_snapshot(snapshot);
  return calls_->Unary<v1::DeleteSnapshotResponse>(&v1::Sessions::Stub::DeleteSnapshot, request)
      .status();
}

absl::Status Sessions::Delete(const std::string& session) const {
  v1::DeleteSessionRequest request;
  request.set_session(session);
  return calls_->Unary<v1::DeleteSessionResponse>(&v1::Sessions::Stub::Delete, request).status();
}

absl::Status Sessions::Decode(v1::DecodeRequest request,
                              absl::FunctionRef<bool(const v1::DecodeEvent&)> take) const {
  if (request.idempotency_key().empty() && !request.has_expected_position()) {
    request.set_idempotency_key(NewKey());
  }
  Patience patience(calls_->patience());
  for (;;) {
    grpc::ClientContext context;
    calls_->Prepare(context, true);
    const auto reader = calls_->stub().Decode(&context, request);
    v1::DecodeEvent event;
    while (reader->Read(&event)) {
      patience.Renew();
      if (event.tokens_size() > 0) {
        request.set_from_position(event.position() + static_cast<uint64_t>(event.tokens_size()));
      }
      if (take(event)) continue;
      context.TryCancel();
      while (reader->Read(&event)) {
      }
      (void)reader->Finish();
      return absl::CancelledError("the decode was not wanted any more");
    }
    const grpc::Status status = reader->Finish();
    if (status.ok()) return absl::OkStatus();
    if (!patience.Repeats(status)) return FromGrpc(status);
  }
}

absl::StatusOr<std::string> Sessions::Export(const std::string& session) const {
  v1::ExportRequest request;
  request.set_session(session);
  Patience patience(calls_->patience());
  for (;;) {
    grpc::ClientContext context;
    calls_->Prepare(context, true);
    const auto reader = calls_->stub().Export(&context, request);
    std::string file, hash;
    v1::FileChunk chunk;
    while (reader->Read(&chunk)) {
      file += chunk.data();
      hash = chunk.sha256();
    }
    const grpc::Status status = reader->Finish();
    if (status.ok() && hash == Sha256(file)) return file;
    if (status.ok()) {
      return absl::DataLossError(absl::StrCat("session ", session, ": damaged on its way"));
    }
    if (!patience.Repeats(status)) return FromGrpc(status);
  }
}

absl::StatusOr<v1::Session> Sessions::Import(v1::ImportHeader header,
                                             absl::string_view file) const {
  if (header.session().empty()) header.set_session(NewKey());
  Patience patience(calls_->patience());
  for (;;) {
    grpc::ClientContext context;
    calls_->Prepare(context, true);
    v1::Session made;
    const auto writer = calls_->stub().Import(&context, &made);
    v1::ImportChunk part;
    *part.mutable_header() = header;
    bool open = writer->Write(part);
    for (size_t at = 0; open && at < file.size(); at += kChunk) {
      const absl::string_view data = file.substr(at, kChunk);
      v1::FileChunk& chunk = *part.mutable_chunk();
      chunk.set_offset(at);
      chunk.set_data(data.data(), data.size());
      if (at + data.size() == file.size()) chunk.set_sha256(Sha256(file));
      open = writer->Write(part);
    }
    writer->WritesDone();
    const grpc::Status status = writer->Finish();
    if (status.ok()) return made;
    if (!patience.Repeats(status)) return FromGrpc(status);
  }
}

}  // namespace attnd::client
