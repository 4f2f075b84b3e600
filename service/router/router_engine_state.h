// What the engine knows of operators, workers and launches; for its own files alone.
#ifndef ATTND_SERVICE_ROUTER_ROUTER_ENGINE_STATE_H_
#define ATTND_SERVICE_ROUTER_ROUTER_ENGINE_STATE_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "service/clock.h"
#include "service/router/router_engine.h"

namespace attnd {

inline uint64_t Nanoseconds(absl::Duration d) {
  return static_cast<uint64_t>(std::max<int64_t>(0, absl::ToInt64Nanoseconds(d)));
}

// What became of the one who waits for a call.
enum class Fate : uint8_t { kWaits, kLate, kCancelled };

// First the deadline: what is late is cancelled too.
inline Fate FateOf(const QueuedCall& call, absl::Time now) {
  const bool cancelled = call.cancelled();
  if (cancelled ? LeftForDeadline(now, call.deadline) : now >= call.deadline) return Fate::kLate;
  return cancelled ? Fate::kCancelled : Fate::kWaits;
}

// For a message: how long ago the call was admitted.
inline std::string Since(const QueuedCall& call, absl::Time now) {
  return absl::FormatDuration(absl::Trunc(now - call.admitted, absl::Microseconds(1)));
}

struct RouterEngine::OpState {
  OpMetrics* metrics = nullptr;
  std::atomic<uint64_t> success_count{0}, success_ns{0};
  std::atomic<uint64_t> fail_count{0}, fail_ns{0};
  std::atomic<uint64_t> queue_ns{0}, compute_ns{0};
  std::atomic<uint64_t> inference_count{0}, execution_count{0};
  std::atomic<int64_t> last_inference_ns{0};  // Since the Unix epoch.
  mutable absl::Mutex mu;
  std::map<size_t, OpStatistics::Launches> launches ABSL_GUARDED_BY(mu);  // By their calls.

  void Launched(size_t calls, absl::Duration compute) {
    execution_count.fetch_add(1, std::memory_order_relaxed);
    inference_count.fetch_add(calls, std::memory_order_relaxed);
    const uint64_t ns = Nanoseconds(compute);
    compute_ns.fetch_add(ns * calls, std::memory_order_relaxed);
    last_inference_ns.store(absl::ToUnixNanos(absl::Now()), std::memory_order_relaxed);
    absl::MutexLock lock(&mu);
    OpStatistics::Launches& alike = launches[calls];
    ++alike.count;
    alike.compute_ns += ns;
  }
  void Answered(const QueuedCall& call, bool ok) {
    const uint64_t ns = Nanoseconds(MonotonicNow() - call.admitted);
    (ok ? success_count : fail_count).fetch_add(1, std::memory_order_relaxed);
    (ok ? success_ns : fail_ns).fetch_add(ns, std::memory_order_relaxed);
  }
};

struct RouterEngine::Worker {
  explicit Worker(std::unique_ptr<WorkerLink> l) : link(std::move(l)) {
    for (const Lane lane : link->slots()) ++slots[static_cast<size_t>(lane)];
  }
  const std::unique_ptr<WorkerLink> link;
  std::array<int, kLanes> slots = {};
  // Guarded by the engine's mutex.
  WorkerState state = WorkerState::kDown;
  uint64_t times_up = 0;
  bool announced = false;  // Whether it drained since it was last up.
  uint64_t drained = 0;    // Times it came up again after it had.
  size_t running = 0;
  std::array<std::vector<int>, kLanes> free = {};  // Slots without a launch.
};

// Calls that run together in a slot of a worker.
struct RouterEngine::Launch {
  Launch(Worker& w, Lane l, int s, CallList calls)
      : worker(w), lane(l), slot(s), batch(std::move(calls)), next(batch.begin()) {}
  Worker& worker;
  const Lane lane;
  const int slot;
  CallList batch;
  const size_t size = batch.size();
  absl::Time start;
  // Of what the worker runs now: all calls, or one of them.
  std::shared_ptr<LaunchLife> life;
  // As one call, where they run as one.
  std::vector<const BoundCall*> calls;
  std::optional<BoundCall> packed;
  // Where they run one by one: the first that has not run.
  CallList::iterator next;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_ROUTER_ROUTER_ENGINE_STATE_H_
