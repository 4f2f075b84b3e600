// Calls of one session, one after another in the order in which they came.
#ifndef ATTND_SERVICE_SESSION_SESSION_TURNS_H_
#define ATTND_SERVICE_SESSION_SESSION_TURNS_H_

#include <cstddef>
#include <deque>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "service/overload.h"

namespace attnd {

// Safe from many threads.
class SessionTurns {
 public:
  using Run = absl::AnyInvocable<void()>;

  // Runs `run` in its turn, on this thread or on the one that ends the turn before; it ends by one
  // Leave. RESOURCE_EXHAUSTED, and `run` is not run, if too many wait.
  absl::Status Enter(const std::string& session, Run run) ABSL_LOCKS_EXCLUDED(mu_) {
    {
      absl::MutexLock lock(&mu_);
      const auto [at, first] = waiting_.try_emplace(session);
      if (!first && at->second.size() >= kMaxWaiting) {
        return OverloadError(absl::StrCat("sequence_id: given ", session, ", for which ",
                                          kMaxWaiting, " calls wait already, the limit"));
      }
      if (!first) {
        at->second.push_back(std::move(run));
        return absl::OkStatus();
      }
    }
    std::move(run)();
    return absl::OkStatus();
  }

  void Leave(const std::string& session) ABSL_LOCKS_EXCLUDED(mu_) {
    Run next;
    {
      absl::MutexLock lock(&mu_);
      const auto at = waiting_.find(session);
      if (at->second.empty()) {
        waiting_.erase(at);
        return;
      }
      next = std::move(at->second.front());
      at->second.pop_front();
    }
    std::move(next)();
  }

 private:
  static constexpr size_t kMaxWaiting = 64;

  absl::Mutex mu_;
  // By session, while a call of it is under way.
  absl::flat_hash_map<std::string, std::deque<Run>> waiting_ ABSL_GUARDED_BY(mu_);
};

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_SESSION_TURNS_H_
