// Export and Import: files in chunks.

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "models/sha256.h"
#include "service/rpc/event_stream.h"
#include "service/rpc/grpc_status.h"
#include "service/rpc/session_streams.h"

namespace attnd {
namespace {

constexpr size_t kChunk = size_t{1} << 20;
// Chunks on their way to one client.
constexpr size_t kAhead = 2;

class ExportStream final
    : public EventStream<grpc::ServerWriteReactor<v1::FileChunk>, v1::FileChunk> {
 public:
  static ExportStream* Start(SessionManager& manager, const v1::ExportRequest& request) {
    auto stream = std::make_shared<ExportStream>();
    stream->Own(stream);
    manager.Export(request, [stream](absl::StatusOr<std::string> file) {
      if (!file.ok()) return stream->End(ToGrpcStatus(file.status()));
      {
        absl::MutexLock lock(&stream->mu_);
        stream->file_ = *std::move(file);
        stream->open_ = true;
      }
      for (size_t i = 0; i < kAhead; ++i) stream->Room();
    });
    return stream.get();
  }

 private:
  // A chunk for each that went.
  void Room() override {
    absl::MutexLock lock(&mu_);
    if (!open_) return;
    if (queue() == Queue::kGone) {
      open_ = false;
      return End(grpc::Status::CANCELLED);
    }
    v1::FileChunk chunk;
    const size_t size = std::min(kChunk, file_.size() - at_);
    chunk.set_offset(at_);
    chunk.set_data(file_.data() + at_, size);
    hash_.Add(chunk.data());
    at_ += size;
    const bool last = at_ == file_.size();
    if (last) chunk.set_sha256(hash_.Finish());
    (void)Send(std::move(chunk));
    if (!last) return;
    open_ = false;
    End(grpc::Status::OK);
  }

  absl::Mutex mu_;
  std::string file_ ABSL_GUARDED_BY(mu_);
  size_t at_ ABSL_GUARDED_BY(mu_) = 0;
  bool open_ ABSL_GUARDED_BY(mu_) = false;
  Sha256Stream hash_ ABSL_GUARDED_BY(mu_);
};

class ImportStream final : public grpc::ServerReadReactor<v1::ImportChunk> {
 public:
  static ImportStream* Start(SessionManager& manager, v1::Session* response) {
    auto stream = std::make_shared<ImportStream>(manager, response);
    stream->self_ = stream;
    stream->StartRead(&stream->part_);
    return stream.get();
  }

  ImportStream(SessionManager& manager, v1::Session* response)
      : manager_(manager), response_(response), room_(manager.file_room()) {}
  ~ImportStream() override { room_->Release(file_.size()); }

  void OnReadDone(bool ok) override {
    if (!ok) return Complete();
    if (absl::Status s = Take(); !s.ok()) return Finish(ToGrpcStatus(s));
    StartRead(&part_);
  }
  void OnDone() override { const std::shared_ptr<ImportStream> last = std::move(self_); }

 private:
  absl::Status Take() {
    const auto bad = [](absl::string_view what) {
      return absl::InvalidArgumentError(absl::StrCat("import: ", what));
    };
    if (part_.has_header() == has_header_) {
      return bad(has_header_ ? "header: given again" : "header: given none, expected it first");
    }
    if (part_.has_header()) {
      has_header_ = true;
      header_ = std::move(*part_.mutable_header());
      return absl::OkStatus();
    }
    const v1::FileChunk& chunk = part_.chunk();
    if (chunk.offset() != file_.size() || !sha256_.empty()) {
      return bad(absl::StrCat(
          "chunk: offset: given ", chunk.offset(), ", expected ",
          sha256_.empty() ? absl::StrCat(file_.size()) : "no chunk behind the one with sha256"));
    }
    if (absl::Status s = room_->Take(file_.size(), chunk.data().size()); !s.ok()) return s;
    hash_.Add(chunk.data());
    file_ += chunk.data();
    sha256_ = chunk.sha256();
    return absl::OkStatus();
  }

  void Complete() {
    if (!has_header_) {
      return Finish(ToGrpcStatus(
          absl::InvalidArgumentError("import: header: given none, expected it first")));
    }
    const std::string hash = hash_.Finish();
    if (!sha256_.empty() && sha256_ != hash) {
      return Finish(ToGrpcStatus(absl::DataLossError(absl::StrCat(
          "import: damaged on its way: the chunks have the SHA-256 ", absl::BytesToHexString(hash),
          ", expected ", absl::BytesToHexString(sha256_)))));
    }
    room_->Release(file_.size());
    manager_.Import(std::move(header_), std::exchange(file_, ""),
                    [self = self_](absl::StatusOr<v1::Session> made) {
                      const grpc::Status status = ToGrpcStatus(made.status());
                      if (made.ok()) *self->response_ = *std::move(made);
                      self->Finish(status);
                    });
  }

  SessionManager& manager_;
  v1::Session* const response_;
  const std::shared_ptr<FileRoom> room_;
  std::shared_ptr<ImportStream> self_;
  v1::ImportChunk part_;
  v1::ImportHeader header_;
  bool has_header_ = false;
  std::string file_;
  std::string sha256_;
  Sha256Stream hash_;
};

}  // namespace

grpc::ServerWriteReactor<v1::FileChunk>* StartExport(SessionManager& manager,
                                                     const v1::ExportRequest& request) {
  return ExportStream::Start(manager, request);
}

grpc::ServerReadReactor<v1::ImportChunk>* StartImport(SessionManager& manager,
                                                      v1::Session* response) {
  return ImportStream::Start(manager, response);
}

}  // namespace attnd
