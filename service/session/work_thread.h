// A thread for what takes long and waits for nothing: the hashing of files, say. Whoever comes
// later waits here, and not on the threads that carry messages or write to the store.
#ifndef ATTND_SERVICE_SESSION_WORK_THREAD_H_
#define ATTND_SERVICE_SESSION_WORK_THREAD_H_

#include <deque>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"

namespace attnd {

class WorkThread {
 public:
  WorkThread() : thread_([this] { Loop(); }) {}
  // What was handed over is done first.
  ~WorkThread() {
    Run(nullptr);
    thread_.join();
  }

  // Behind what was handed over before. Any thread.
  void Run(absl::AnyInvocable<void()> work) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    queue_.push_back(std::move(work));
  }

 private:
  void Loop() ABSL_LOCKS_EXCLUDED(mu_) {
    for (;;) {
      absl::AnyInvocable<void()> work;
      {
        absl::MutexLock lock(&mu_);
        const auto wanted = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return !queue_.empty(); };
        mu_.Await(absl::Condition(&wanted));
        work = std::move(queue_.front());
        queue_.pop_front();
      }
      if (!work) return;
      std::move(work)();
    }
  }

  absl::Mutex mu_;
  std::deque<absl::AnyInvocable<void()>> queue_ ABSL_GUARDED_BY(mu_);
  std::thread thread_;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_WORK_THREAD_H_
