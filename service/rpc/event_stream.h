// The writing half of a stream that answers with many messages: a queue, one write at a time, and
// the status behind the last message. A reader that is slow fills the queue, which its maker is
// told; one that has left is told too.
#ifndef ATTND_SERVICE_RPC_EVENT_STREAM_H_
#define ATTND_SERVICE_RPC_EVENT_STREAM_H_

#include <grpcpp/support/server_callback.h>

#include <deque>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "service/session/fault_point.h"

namespace attnd {

// `Reactor` is a ServerWriteReactor or ServerBidiReactor that writes `Message`. Owns itself from
// Own() until gRPC is done with it.
template <typename Reactor, typename Message>
class EventStream : public Reactor {
 public:
  void OnWriteDone(bool ok) final {
    {
      absl::MutexLock lock(&mu_);
      writing_ = false;
      FaultPoint("event.sent");
      gone_ = gone_ || !ok;
      Proceed();
    }
    Room();
  }
  void OnCancel() final {
    {
      absl::MutexLock lock(&mu_);
      gone_ = true;
      if (!writing_) Proceed();
    }
    Room();
  }
  void OnDone() final { const std::shared_ptr<EventStream> last = std::move(self_); }

 protected:
  // Messages that wait for a slow reader.
  static constexpr size_t kQueued = 64;
  enum class Queue : uint8_t { kRoom, kFull, kGone };

  void Own(std::shared_ptr<EventStream> self) { self_ = std::move(self); }

  // Takes the message even where there is no room: the answer asks for a pause.
  Queue Send(Message message) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    if (gone_) return Queue::kGone;
    FaultPoint("event.before");
    queue_.push_back(std::move(message));
    if (!writing_) Proceed();
    return State();
  }
  Queue queue() const ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    return State();
  }
  // After the last message; once. Nothing of this object may be used afterwards but by gRPC.
  void End(grpc::Status status) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    status_ = std::move(status);
    ended_ = true;
    if (!writing_) Proceed();
  }

  // Called without a lock where there may be room again, or nobody to write to.
  virtual void Room() {}

 private:
  Queue State() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (gone_) return Queue::kGone;
    return queue_.size() < kQueued ? Queue::kRoom : Queue::kFull;
  }
  // While nothing is being written.
  void Proceed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (finished_) return;
    if (!gone_ && !queue_.empty()) {
      current_ = std::move(queue_.front());
      queue_.pop_front();
      writing_ = true;
      this->StartWrite(&current_);
    } else if (ended_) {
      finished_ = true;
      FaultPoint("event.last");
      this->Finish(status_);
    }
  }

  std::shared_ptr<EventStream> self_;
  mutable absl::Mutex mu_;
  std::deque<Message> queue_ ABSL_GUARDED_BY(mu_);
  Message current_;  // Being written.
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool gone_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  grpc::Status status_ ABSL_GUARDED_BY(mu_);
};

}  // namespace attnd

#endif  // ATTND_SERVICE_RPC_EVENT_STREAM_H_
