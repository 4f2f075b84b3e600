// A stream of independent calls: reads requests, has several under way, answers as they come or in
// the order of the requests. One write at a time, and no more reads than answers leave room for, so
// a slow reader holds up its own stream and nothing else.
#ifndef ATTND_SERVICE_RPC_CALL_STREAM_H_
#define ATTND_SERVICE_RPC_CALL_STREAM_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <list>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "service/engine.h"

namespace attnd {

class CallStream final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  // The answer to one request. A status that is not OK ends the whole stream with it.
  struct Answer {
    grpc::ByteBuffer message;
    grpc::Status status;
  };
  using Reply = absl::AnyInvocable<void(Answer)>;
  // Starts one call; calls `reply` exactly once, from any thread. Must not block. `request` is the
  // handler's until it returns.
  using Handler = absl::AnyInvocable<void(grpc::ByteBuffer& request,
                                          const std::shared_ptr<CancelToken>& cancel, Reply reply)>;
  enum class Order : uint8_t { kAsReady, kAsAsked };

  // The reactor to hand to gRPC. It owns itself until gRPC is done with it.
  static CallStream* Start(Order order, int max_calls, Handler handler);
  CallStream(Order order, int max_calls, Handler handler)
      : order_(order), max_calls_(static_cast<size_t>(max_calls)), handler_(std::move(handler)) {}

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override { cancel_->Cancel(); }
  void OnDone() override { const std::shared_ptr<CallStream> last = std::move(self_); }

 private:
  struct Pending {
    bool ready = false;
    Answer answer;
  };
  using Place = std::list<Pending>::iterator;

  void OnAnswer(Place place, Answer answer) ABSL_LOCKS_EXCLUDED(mu_);
  // Starts whatever can be started now.
  void Proceed() ABSL_LOCKS_EXCLUDED(mu_);

  const Order order_;
  const size_t max_calls_;
  const std::shared_ptr<CancelToken> cancel_ = std::make_shared<CancelToken>();
  std::shared_ptr<CallStream> self_;
  // Used by OnReadDone alone, and there is one read at a time.
  Handler handler_;
  grpc::ByteBuffer request_;

  absl::Mutex mu_;
  std::list<Pending> pending_ ABSL_GUARDED_BY(mu_);  // Under way, in the order asked.
  std::list<Pending> ready_ ABSL_GUARDED_BY(mu_);    // To be written, the first one first.
  bool reading_ ABSL_GUARDED_BY(mu_) = false;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool no_more_requests_ ABSL_GUARDED_BY(mu_) = false;
  bool broken_ ABSL_GUARDED_BY(mu_) = false;  // Answers can no longer be written.
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  grpc::Status status_ ABSL_GUARDED_BY(mu_);  // Of the whole stream.
};

}  // namespace attnd

#endif  // ATTND_SERVICE_RPC_CALL_STREAM_H_
