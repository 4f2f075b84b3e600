// Converse: commands on one stream, run one after another.
#include <deque>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/rpc/event_stream.h"
#include "service/rpc/grpc_status.h"
#include "service/rpc/session_streams.h"
#include "service/session/fault_point.h"

namespace attnd {
namespace {

// Commands of one stream that wait for those before them.
constexpr size_t kMaxWaiting = 256;

class ConverseStream final
    : public EventStream<grpc::ServerBidiReactor<v1::ConverseRequest, v1::ConverseEvent>,
                         v1::ConverseEvent> {
 public:
  static ConverseStream* Start(SessionManager& manager) {
    auto stream = std::make_shared<ConverseStream>(manager);
    stream->Own(stream);
    stream->self_ = stream;
    stream->StartRead(&stream->request_);
    return stream.get();
  }

  explicit ConverseStream(SessionManager& manager) : manager_(manager) {}

  void OnReadDone(bool ok) override;

 private:
  struct Command {
    uint64_t index = 0;
    bool cancelled = false;
    v1::ConverseRequest request;
    absl::Status status;  // An error: instead of running, in its turn.
  };

  // The decode under way.
  class Decoding;

  absl::Status Take(v1::ConverseRequest request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Runs the next command if none runs and its answers have room; ends the stream where that was
  // all.
  void Proceed() ABSL_LOCKS_EXCLUDED(mu_);
  void CommandDone(absl::Status status) ABSL_LOCKS_EXCLUDED(mu_);
  void Room() override ABSL_LOCKS_EXCLUDED(mu_);

  SessionManager& manager_;
  // Until the stream ends: what runs holds it too.
  std::shared_ptr<ConverseStream> self_ ABSL_GUARDED_BY(mu_);
  v1::ConverseRequest request_;  // Of the read under way.
  absl::Mutex mu_;
  std::string session_ ABSL_GUARDED_BY(mu_);
  uint64_t count_ ABSL_GUARDED_BY(mu_) = 0;
  std::deque<Command> waiting_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<Decoding> decoding_ ABSL_GUARDED_BY(mu_);
  bool running_ ABSL_GUARDED_BY(mu_) = false;
  bool no_more_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mu_);
};

class ConverseStream::Decoding final : public DecodeSink {
 public:
  Decoding(std::shared_ptr<ConverseStream> stream, uint64_t index, bool cancelled)
      : stream_(std::move(stream)), index_(index), cancelled_(cancelled) {}

  Answer Event(v1::DecodeEvent event) override {
    v1::ConverseEvent out;
    out.set_command(index_);
    *out.mutable_decoded() = std::move(event);
    switch (stream_->Send(std::move(out))) {
      case Queue::kRoom:
        return Answer::kGoOn;
      case Queue::kFull:
        return Answer::kPause;
      case Queue::kGone:
        break;
    }
    return Answer::kStop;
  }
  Answer Wish() override {
    if (stream_->queue() == Queue::kGone) return Answer::kStop;
    absl::MutexLock lock(&mu_);
    return cancelled_ ? Answer::kCancel : Answer::kGoOn;
  }
  bool Paused(absl::AnyInvocable<void()> resume) override {
    absl::MutexLock lock(&mu_);
    if (cancelled_ || stream_->queue() != Queue::kFull) return false;
    resume_ = std::move(resume);
    return true;
  }
  void Done(absl::Status status) override { stream_->CommandDone(std::move(status)); }

  void Cancel() {
    {
      absl::MutexLock lock(&mu_);
      cancelled_ = true;
    }
    Wake();
  }
  // Goes on where it paused, unless there is still a reason to.
  void Wake() {
    absl::AnyInvocable<void()> resume;
    {
      absl::MutexLock lock(&mu_);
      if (!cancelled_ && stream_->queue() == Queue::kFull) return;
      resume = std::exchange(resume_, nullptr);
    }
    if (resume) resume();
  }

 private:
  const std::shared_ptr<ConverseStream> stream_;
  const uint64_t index_;
  absl::Mutex mu_;
  bool cancelled_ ABSL_GUARDED_BY(mu_);
  absl::AnyInvocable<void()> resume_ ABSL_GUARDED_BY(mu_);
};

void ConverseStream::OnReadDone(bool ok) {
  std::shared_ptr<Decoding> cancelled;
  {
    absl::MutexLock lock(&mu_);
    if (ok && !ended_) {
      // What comes behind a cancel is not meant by it: so before the next read.
      if (request_.has_cancel()) cancelled = decoding_;
      if (absl::Status s = Take(std::move(request_)); !s.ok()) {
        waiting_.push_back({count_, false, {}, std::move(s)});
        no_more_ = true;
      }
      request_.Clear();
    }
    no_more_ = no_more_ || !ok || !status_.ok();
    if (!no_more_ && !ended_) StartRead(&request_);
  }
  if (cancelled != nullptr) cancelled->Cancel();
  Proceed();
}

absl::Status ConverseStream::Take(v1::ConverseRequest request) {
  const auto bad = [&](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat("converse: command ", count_, ": ", what));
  };
  const uint64_t index = count_;
  std::string* session = nullptr;
  switch (request.command_case()) {
    case v1::ConverseRequest::kAppend:
      session = request.mutable_append()->mutable_session();
      break;
    case v1::ConverseRequest::kDecode:
      session = request.mutable_decode()->mutable_session();
      break;
    case v1::ConverseRequest::kCancel:
      for (Command& command : waiting_) command.cancelled = true;
      ++count_;
      return absl::OkStatus();
    case v1::ConverseRequest::COMMAND_NOT_SET:
      return bad("given none, expected append, decode or cancel");
  }
  if (session->empty()) *session = session_;
  if (session_.empty()) session_ = *session;
  if (session_.empty()) return bad("session: given nothing, expected a session's name");
  if (*session != session_) {
    return bad(
        absl::StrCat("session: given \"", *session, "\" on the stream of \"", session_, "\""));
  }
  if (waiting_.size() >= kMaxWaiting) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "converse: ", kMaxWaiting, " commands wait, the limit: read what they answer"));
  }
  waiting_.push_back({index, false, std::move(request), absl::OkStatus()});
  ++count_;
  return absl::OkStatus();
}

void ConverseStream::Room() {
  std::shared_ptr<Decoding> decoding;
  {
    absl::MutexLock lock(&mu_);
    decoding = decoding_;
    if (queue() == Queue::kGone) {
      waiting_.clear();
      no_more_ = true;
      status_.Update(absl::CancelledError("the client went away"));
    }
  }
  if (decoding != nullptr) decoding->Wake();
  Proceed();
}

void ConverseStream::Proceed() {
  Command command;
  std::shared_ptr<Decoding> decoding;
  std::shared_ptr<ConverseStream> self;
  {
    absl::MutexLock lock(&mu_);
    if (running_ || ended_ || queue() == Queue::kFull) return;
    self = self_;
    if (!waiting_.empty()) status_.Update(waiting_.front().status);
    if (waiting_.empty() || !status_.ok()) {
      if (!no_more_ && status_.ok()) return;
      ended_ = true;
      self_ = nullptr;
      End(ToGrpcStatus(status_));
      return;
    }
    command = std::move(waiting_.front());
    waiting_.pop_front();
    running_ = true;
    FaultPoint("converse.command");
    if (command.request.has_decode()) {
      decoding = std::make_shared<Decoding>(self, command.index, command.cancelled);
      decoding_ = decoding;
    }
  }
  if (decoding != nullptr) return manager_.Decode(command.request.decode(), std::move(decoding));
  manager_.Append(command.request.append(),
                  [self, index = command.index](absl::StatusOr<v1::AppendResponse> response) {
                    if (!response.ok()) return self->CommandDone(response.status());
                    v1::ConverseEvent event;
                    event.set_command(index);
                    *event.mutable_appended() = *std::move(response);
                    (void)self->Send(std::move(event));
                    self->CommandDone(absl::OkStatus());
                  });
}

void ConverseStream::CommandDone(absl::Status status) {
  FaultPoint("converse.done");
  {
    absl::MutexLock lock(&mu_);
    running_ = false;
    decoding_ = nullptr;
    status_.Update(std::move(status));
  }
  Proceed();
}

}  // namespace

grpc::ServerBidiReactor<v1::ConverseRequest, v1::ConverseEvent>* StartConverse(
    SessionManager& manager) {
  return ConverseStream::Start(manager);
}

}  // namespace attnd
