// The small launches of one slot, on one stream to its worker.
#ifndef ATTND_SERVICE_WORKER_LAUNCH_STREAM_H_
#define ATTND_SERVICE_WORKER_LAUNCH_STREAM_H_

#include <grpcpp/client_context.h>

#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "attnd/v1/worker.grpc.pb.h"

namespace attnd {

// attnd.v1.Worker.ExecuteSmall as its client sees it. Lives until gRPC is done with it, whoever
// else holds it.
class LaunchStream final : public grpc::ClientBidiReactor<v1::ExecuteFrame, v1::ExecuteFrame> {
 public:
  // Given the worker's answer, or, with a status that is not OK, why there is none: an answer that
  // was still due when the stream ended is UNAVAILABLE. On a thread of gRPC's, or in Send.
  using Answered = absl::AnyInvocable<void(const grpc::Status&, const v1::ExecuteFrame&)>;

  // `context` is for this stream alone.
  static std::shared_ptr<LaunchStream> Open(v1::Worker::Stub& stub,
                                            std::shared_ptr<grpc::ClientContext> context);

  // The next request, which Send sends. It is of the caller from Open, and again from an answer,
  // until Send.
  v1::ExecuteFrame& request() { return request_; }
  // At most one request is under way at a time. Returns its number.
  uint64_t Send(Answered answered);
  // Tells the worker that nobody waits for the answer of this request. The answer comes all the
  // same. Nothing happens once it came. From any thread.
  void Cancel(uint64_t number);

  // Whether nothing can be sent any more.
  bool ended() const {
    absl::MutexLock lock(&mu_);
    return !open_;
  }

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  explicit LaunchStream(std::shared_ptr<grpc::ClientContext> context)
      : context_(std::move(context)) {}

  // A read is always under way while the stream is open, so that its end is noticed and that gRPC
  // keeps the stream for writes from any thread.
  void Deliver(Answered answered);
  void WriteCancel() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const std::shared_ptr<grpc::ClientContext> context_;
  std::shared_ptr<LaunchStream> self_;
  v1::ExecuteFrame request_;
  v1::ExecuteFrame cancel_;
  v1::ExecuteFrame answer_;

  mutable absl::Mutex mu_;
  bool open_ ABSL_GUARDED_BY(mu_) = true;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool answer_came_ ABSL_GUARDED_BY(mu_) = false;
  bool done_ ABSL_GUARDED_BY(mu_) = false;
  Answered answered_ ABSL_GUARDED_BY(mu_);       // Set while a request is under way.
  uint64_t number_ ABSL_GUARDED_BY(mu_) = 0;     // Of the last request.
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;  // The last request, once its own write is done.
};

}  // namespace attnd

#endif  // ATTND_SERVICE_WORKER_LAUNCH_STREAM_H_
