#include "service/worker/launch_stream.h"

#include <utility>

namespace attnd {
namespace {

// How the stream ended, for a launch that it leaves without an answer.
grpc::Status Lost(const grpc::Status& end) {
  if (!end.ok()) return end;
  return grpc::Status(grpc::StatusCode::UNAVAILABLE, "it ended the stream of launches");
}

}  // namespace

std::shared_ptr<LaunchStream> LaunchStream::Open(v1::Worker::Stub& stub,
                                                 std::shared_ptr<grpc::ClientContext> context) {
  std::shared_ptr<LaunchStream> stream(new LaunchStream(std::move(context)));
  stream->self_ = stream;
  stub.async()->ExecuteSmall(stream->context_.get(), stream.get());
  stream->StartRead(&stream->answer_);
  stream->StartCall();
  return stream;
}

uint64_t LaunchStream::Send(Answered answered) {
  uint64_t number;
  {
    absl::MutexLock lock(&mu_);
    number = ++number_;
    cancelled_ = false;
    if (!done_) {
      answered_ = std::move(answered);
      // Otherwise OnDone comes, and knows why.
      if (open_) {
        request_.mutable_call()->set_number(number);
        writing_ = true;
        StartWrite(&request_);
      }
      return number;
    }
  }
  answered(Lost(grpc::Status::OK), answer_);
  return number;
}

void LaunchStream::Cancel(uint64_t number) {
  absl::MutexLock lock(&mu_);
  if (number != number_ || answered_ == nullptr || answer_came_ || !open_) return;
  cancelled_ = true;
  if (!writing_) WriteCancel();
}

void LaunchStream::WriteCancel() {
  cancelled_ = false;
  cancel_.mutable_cancel()->set_number(number_);
  writing_ = true;
  StartWrite(&cancel_);
}

void LaunchStream::Deliver(Answered answered) {
  answered(grpc::Status::OK, answer_);
  StartRead(&answer_);
}

void LaunchStream::OnReadDone(bool ok) {
  Answered answered;
  {
    absl::MutexLock lock(&mu_);
    if (!ok) {
      open_ = false;
      return;
    }
    if (answered_ == nullptr) {
      // Nothing was asked: whoever sends this is no worker of this build.
      open_ = false;
      context_->TryCancel();
      return;
    }
    answer_came_ = true;
    // gRPC takes one write at a time: the next may be started by whoever is answered.
    if (writing_) return;
    answer_came_ = false;
    answered = std::move(answered_);
    answered_ = nullptr;
  }
  Deliver(std::move(answered));
}

void LaunchStream::OnWriteDone(bool ok) {
  Answered answered;
  {
    absl::MutexLock lock(&mu_);
    writing_ = false;
    if (!answer_came_) {
      if (ok && open_ && cancelled_) WriteCancel();
      return;
    }
    answer_came_ = false;
    answered = std::move(answered_);
    answered_ = nullptr;
  }
  Deliver(std::move(answered));
}

void LaunchStream::OnDone(const grpc::Status& status) {
  const std::shared_ptr<LaunchStream> last = std::move(self_);
  Answered answered;
  {
    absl::MutexLock lock(&mu_);
    open_ = false;
    done_ = true;
    answered = std::move(answered_);
    answered_ = nullptr;
  }
  if (answered != nullptr) answered(Lost(status), answer_);
}

}  // namespace attnd
