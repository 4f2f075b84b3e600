// Whether anybody still waits for a launch.
#ifndef ATTND_SERVICE_ROUTER_LAUNCH_LIFE_H_
#define ATTND_SERVICE_ROUTER_LAUNCH_LIFE_H_

#include <atomic>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/container/inlined_vector.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "kernels/core/interrupt.h"
#include "service/cancel_token.h"
#include "service/router/call_queue.h"

namespace attnd {

// A launch is worth its time while one of its calls waits: it is over once each of them was
// cancelled or is late. Thread-safe, but for Add.
class LaunchLife final : public Interrupt,
                         public CancelToken::Watcher,
                         public std::enable_shared_from_this<LaunchLife> {
 public:
  ~LaunchLife() override;

  // Before anybody else knows of it.
  void Add(const QueuedCall& call);

  // Until when somebody may wait: the latest deadline of a call that was not cancelled, on the
  // monotonic clock; InfiniteFuture if one of them has none.
  absl::Time deadline() const;

  bool over() const;
  bool requested() const override { return over(); }

  // Calls `stop`, once, when the last call that waited is cancelled; at once where it was.
  // Deadlines pass without it: deadline() tells of them beforehand. At most one `stop`, which may
  // still run, or be there, after the launch's end.
  void WhenOver(absl::AnyInvocable<void()> stop);
  void OnCancel() override;

 private:
  struct Caller {
    std::shared_ptr<CancelToken> cancel;  // May be null.
    absl::Time deadline;

    bool cancelled() const { return cancel != nullptr && cancel->cancelled(); }
  };

  absl::InlinedVector<Caller, 1> callers_;
  // Those before it have left, for good.
  mutable std::atomic<size_t> left_{0};
  bool watching_ = false;
  absl::Mutex mu_;
  absl::AnyInvocable<void()> stop_ ABSL_GUARDED_BY(mu_);
};

}  // namespace attnd

#endif  // ATTND_SERVICE_ROUTER_LAUNCH_LIFE_H_
