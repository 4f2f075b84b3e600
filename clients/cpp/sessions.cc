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
#include "clients/cpp/exchange.h"

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

// Waits between repetitions, and when to give up.
class Patience {
 public:
  explicit Patience(absl::Duration most) : most_(most) { Renew(); }
  void Renew() {
    end_ = absl::Now() + most_;
    wait_ = absl::Milliseconds(50);
  }
  // Whether to repeat what ended like this; waits first.
  bool Repeats(const grpc::Status& status) {
    if (status.error_code() != grpc::StatusCode::UNAVAILABLE || absl::Now() + wait_ > end_) {
      return false;
    }
    absl::BitGen random;
    absl::SleepFor(wait_ * absl::Uniform(random, 0.5, 1.0));
    wait_ = std::min(2 * wait_, absl::Seconds(2));
    return true;
  }

 private:
  const absl::Duration most_;
  absl::Time end_;
  absl::Duration wait_;
};

}  // namespace

class Sessions::Calls {
 public:
  Calls(const Client& client, absl::Duration patience)
      : client_(client), patience_(patience), stub_(v1::Sessions::NewStub(client.channel())) {}

  absl::Duration patience() const { return patience_; }
  v1::Sessions::Stub& stub() const { return *stub_; }

  void Prepare(grpc::ClientContext& context, bool stream) const {
    const Options& options = client_.options();
    for (const auto& [key, value] : options.metadata) context.AddMetadata(key, value);
    if (!stream && options.timeout != absl::InfiniteDuration()) {
      context.set_deadline(absl::ToChronoTime(absl::Now() + options.timeout));
    }
  }

  template <typename Response, typename Request, typename Method>
  absl::StatusOr<Response> Unary(Method method, const Request& request) const {
    Patience patience(patience_);
    for (;;) {
      grpc::ClientContext context;
      Prepare(context, false);
      Response response;
      const grpc::Status status = (stub_.get()->*method)(&context, request, &response);
      if (status.ok()) return response;
      if (!patience.Repeats(status)) return FromGrpc(status);
    }
  }

  // The same for a mutation, which happens once however often it is sent.
  template <typename Response, typename Request, typename Method>
  absl::StatusOr<Response> Mutation(Method method, Request request) const {
    if (request.idempotency_key().empty() && !request.has_expected_position()) {
      request.set_idempotency_key(NewKey());
    }
    return Unary<Response>(method, request);
  }

 private:
  const Client client_;
  const absl::Duration patience_;
  const std::unique_ptr<v1::Sessions::Stub> stub_;
};

Sessions::Sessions(const Client& client, absl::Duration patience)
    : calls_(std::make_shared<Calls>(client, patience)) {}
Sessions::~Sessions() = default;
Sessions::Sessions(const Sessions&) = default;
Sessions& Sessions::operator=(const Sessions&) = default;

absl::StatusOr<v1::Session> Sessions::Create(v1::CreateSessionRequest request) const {
  // Its name is its key: one that the server chose could not be asked for again.
  if (request.session().empty()) request.set_session(NewKey());
  return calls_->Unary<v1::Session>(&v1::Sessions::Stub::Create, request);
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
