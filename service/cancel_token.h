// The news that a client has gone away.
#ifndef ATTND_SERVICE_CANCEL_TOKEN_H_
#define ATTND_SERVICE_CANCEL_TOKEN_H_

#include <atomic>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace attnd {

// Set by a handler when its client goes away; read wherever work could be dropped. Thread-safe.
class CancelToken {
 public:
  class Watcher {
   public:
    virtual ~Watcher() = default;
    // On the thread that cancels, which holds no lock.
    virtual void OnCancel() = 0;
  };

  void Cancel() {
    std::vector<Watched> watched;
    {
      absl::MutexLock lock(&mu_);
      cancelled_.store(true, std::memory_order_release);
      watched = std::move(watched_);
      watched_.clear();
    }
    for (const auto& [key, weak] : watched) {
      if (const std::shared_ptr<Watcher> watcher = weak.lock()) watcher->OnCancel();
    }
  }
  bool cancelled() const { return cancelled_.load(std::memory_order_acquire); }

  // Tells `watcher` of the cancellation, unless it has gone by then. False, without telling it, if
  // the token is cancelled already.
  bool Watch(const std::shared_ptr<Watcher>& watcher) {
    absl::MutexLock lock(&mu_);
    if (cancelled()) return false;
    watched_.emplace_back(watcher.get(), watcher);
    return true;
  }
  // For a watcher that goes.
  void Unwatch(const Watcher* watcher) {
    absl::MutexLock lock(&mu_);
    std::erase_if(watched_, [watcher](const Watched& w) { return w.first == watcher; });
  }

 private:
  using Watched = std::pair<const Watcher*, std::weak_ptr<Watcher>>;

  std::atomic<bool> cancelled_{false};
  absl::Mutex mu_;
  std::vector<Watched> watched_ ABSL_GUARDED_BY(mu_);
};

}  // namespace attnd

#endif  // ATTND_SERVICE_CANCEL_TOKEN_H_
