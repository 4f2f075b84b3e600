// The calls that wait for a worker: bounded, ordered by priority, grouped into batches when taken.
#ifndef ATTND_SERVICE_ROUTER_CALL_QUEUE_H_
#define ATTND_SERVICE_ROUTER_CALL_QUEUE_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "service/byte_budget.h"
#include "service/engine.h"

namespace attnd {

// Calls of one lane never wait for a call of the other: float64 calls and numerics reports run
// definitions, which are slow by design, and must not hold up fused kernels.
enum class Lane : uint8_t { kFast, kReference };
inline constexpr int kLanes = 2;
inline constexpr int kPriorities = 3;

// A numerics report that somebody asked for.
struct CompareJob {
  CallRequest request;
  bool random = false;  // On inputs drawn by `draw`; `request` then holds no inputs.
  RandomCompare draw;
};

struct QueuedCall {
  const Operator* op = nullptr;
  Lane lane = Lane::kFast;
  uint32_t priority = 0;
  int64_t bytes = 0;  // Inputs and outputs.
  int64_t output_bytes = 0;
  bool light = false;                            // Takes less time than waking a thread for it.
  absl::Time admitted;                           // Monotonic.
  absl::Time deadline = absl::InfiniteFuture();  // Monotonic.
  std::shared_ptr<CancelToken> cancel;           // May be null.

  // An evaluation ...
  BoundCall call;
  std::string kernel;
  std::shared_ptr<const TakenBytes>
      answer_room;        // For its outputs; null where nothing limits them.
  std::string batch_key;  // Calls with equal keys may run together; empty: this one runs alone.
  Engine::Done done;
  // ... or, where `compare` is set, a report.
  std::unique_ptr<CompareJob> compare;
  Engine::CompareDone compare_done;

  bool cancelled() const { return cancel != nullptr && cancel->cancelled(); }
  bool dead(absl::Time now) const { return now >= deadline || cancelled(); }
};

// A list, so that calls move between owners by relinking their node.
using CallList = std::list<QueuedCall>;

struct QueueLimits {
  size_t max_calls = 1024;
  int64_t max_bytes = int64_t{2} << 30;
  // A batch ends at the first call that would exceed one of these; it always has one call.
  size_t max_batch_calls = 64;
  int64_t max_batch_bytes = int64_t{32} << 20;
};

// Not thread-safe; knows no clock but the times it is given.
class CallQueue {
 public:
  explicit CallQueue(const QueueLimits& limits) : limits_(limits) {}

  // Takes the only call of `one`. RESOURCE_EXHAUSTED, leaving `one` as it is, if the queue has no
  // room for it.
  absl::Status Push(CallList& one);

  // The oldest call of the highest priority that waits in `lane`, and the calls that may run with
  // it, in the order in which they would have been taken. Empty if nothing waits. Calls met on the
  // way that are late or cancelled move to `dead` instead.
  CallList Take(Lane lane, absl::Time now, CallList& dead);

  // Removes the calls that are late or cancelled.
  CallList Sweep(absl::Time now);

  // Removes every call.
  CallList Clear();

  bool empty() const { return calls_ == 0; }
  bool empty(Lane lane) const;
  size_t calls() const { return calls_; }
  int64_t bytes() const { return bytes_; }
  size_t calls(int priority) const;
  size_t calls(Lane lane) const;
  // Calls that wait with this key.
  size_t waiting(const std::string& batch_key) const;

 private:
  CallList& list(Lane lane, int priority) { return lists_[static_cast<int>(lane)][priority]; }
  void Unlink(CallList& from, CallList::iterator call, CallList& to);

  const QueueLimits limits_;
  std::array<std::array<CallList, kPriorities>, kLanes> lists_;
  absl::flat_hash_map<std::string, size_t> waiting_by_key_;
  size_t calls_ = 0;
  int64_t bytes_ = 0;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_ROUTER_CALL_QUEUE_H_
