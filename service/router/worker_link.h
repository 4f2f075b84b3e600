// What the router knows of a worker, wherever it runs.
#ifndef ATTND_SERVICE_ROUTER_WORKER_LINK_H_
#define ATTND_SERVICE_ROUTER_WORKER_LINK_H_

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "service/engine.h"
#include "service/router/call_queue.h"
#include "service/router/launch_life.h"

namespace attnd {

enum class WorkerState : uint8_t { kDown, kUp, kDraining };

// "down", "up", "draining".
inline absl::string_view Name(WorkerState state) {
  switch (state) {
    case WorkerState::kDown:
      return "down";
    case WorkerState::kUp:
      return "up";
    case WorkerState::kDraining:
      return "draining";
  }
  return "unknown";
}

// Kernels by operator.
using KernelTable = std::vector<std::pair<std::string, std::vector<Engine::KernelName>>>;

// The kernels of `registry` that run on `device`, and on the CPU, which every worker has.
KernelTable KernelsOn(const Registry& registry, Device device);

// Memory and failures of a device since the process began.
struct DeviceUse {
  Device device = Device::kCpu;
  int64_t bytes_in_use = 0;
  int64_t bytes_peak = 0;      // The largest that bytes_in_use was.
  uint64_t out_of_memory = 0;  // Launches that failed for want of memory, and for another fault.
  uint64_t faults = 0;
};

// A worker offers slots; each slot runs one launch at a time. All functions may be called from any
// thread.
class WorkerLink {
 public:
  using StateObserver = std::function<void(WorkerState)>;
  using Executed = absl::AnyInvocable<void(absl::StatusOr<Evaluation>)>;

  virtual ~WorkerLink() = default;

  // "local", "10.0.0.3:8001": a label of metrics, so never from a request.
  virtual std::string name() const = 0;
  // What runs the calls; empty while the worker was never reached.
  virtual std::string device() const = 0;
  virtual KernelTable kernels() const = 0;
  // The devices of this process; a worker in another one tells of its own.
  virtual std::vector<DeviceUse> uses() const { return {}; }

  // The lane that each slot serves.
  virtual std::vector<Lane> slots() const = 0;

  // Reports the state now and whenever it changes, until Stop returns.
  virtual void Start(StateObserver observer) = 0;
  // Ends running launches early where that is possible.
  virtual void Stop() = 0;

  // Runs one launch; throws nothing. `done` is given its outputs on the host, exactly once: on this
  // thread before Execute returns, or later on another. `op`, `call` and `life` live until then.
  // UNAVAILABLE if the worker is lost on the way. A launch whose life is over ends as soon as the
  // worker can, or is never begun: CANCELLED or DEADLINE_EXCEEDED.
  virtual void Execute(int slot, const Operator& op, const BoundCall& call,
                       const std::string& kernel, LaunchLife& life, Executed done) = 0;
  virtual absl::StatusOr<NumericsReport> Compare(int slot, const Operator& op,
                                                 const CompareJob& job, LaunchLife& life) = 0;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_ROUTER_WORKER_LINK_H_
