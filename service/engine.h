// The front of the router: what handlers call, and all they need to know of scheduling and workers.
#ifndef ATTND_SERVICE_ENGINE_H_
#define ATTND_SERVICE_ENGINE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/core/call.h"
#include "kernels/core/evaluate.h"
#include "kernels/core/numerics.h"
#include "kernels/core/registry.h"
#include "service/cancel_token.h"

namespace attnd {

// Whether a client that left did so because its deadline passed. The client's clock starts before
// the server's, so that it gives up first.
inline bool LeftForDeadline(absl::Time now, absl::Time deadline) {
  return now >= deadline - absl::Milliseconds(10);
}

struct EngineCall {
  CallRequest
      request;  // Tensors may be views into the handler's message; their owners keep it alive.
  uint32_t priority = 0;  // 0 to 2, higher first.
  absl::Time deadline = absl::InfiniteFuture();
  std::shared_ptr<CancelToken> cancel;  // May be null.
};

struct EngineResult {
  Evaluation evaluation;
  uint32_t batch_size = 1;
  absl::Duration queue;  // From admission to the start of the launch.
};

struct RandomCompare {
  uint64_t seed = 0;
  DType dtype = DType::kFloat32;
  Named<int64_t> dims;
};

class Engine {
 public:
  using Done = absl::AnyInvocable<void(absl::StatusOr<EngineResult>)>;
  using CompareDone = absl::AnyInvocable<void(absl::StatusOr<NumericsReport>)>;

  virtual ~Engine() = default;

  // Validates at once, then queues; `done` is called exactly once, possibly before Evaluate returns
  // (bad input, full queue), else from an engine thread. Never blocks. Errors as in
  // operators.proto.
  virtual void Evaluate(EngineCall call, Done done) = 0;

  // A numerics report on the call's inputs; with `random` set, on inputs drawn from the schema.
  virtual void Compare(EngineCall call, const RandomCompare* random, CompareDone done) = 0;

  // Schemas of every operator. Kernels listed are those of this process; see KernelsOf.
  virtual const Registry& registry() const = 0;

  // Names and devices of the kernels that the workers can run for an operator, "composed" excluded.
  struct KernelName {
    std::string name;
    std::string device;
  };
  virtual std::vector<KernelName> KernelsOf(absl::string_view op) const = 0;

  // What became of a call that ended in its handler, before Evaluate or Compare: for the counts.
  enum class Dropped : uint8_t { kInvalid, kTooLarge, kBufferFull, kCancelled, kLate };
  virtual void NoteDropped(Dropped) {}

  // Whether at least one worker can take a call now, and the engine is not draining.
  virtual bool ready() const = 0;

  // Counts for protocol statistics, by operator.
  struct OpStatistics {
    uint64_t success_count = 0, success_ns = 0;
    uint64_t fail_count = 0, fail_ns = 0;
    uint64_t queue_ns = 0;
    uint64_t compute_ns = 0;       // Of every call, the time of the launch that it shared.
    uint64_t inference_count = 0;  // Calls.
    uint64_t execution_count = 0;  // Launches.
    struct Launches {
      uint64_t count = 0, compute_ns = 0;
    };
    std::map<size_t, Launches> launches;  // By how many calls shared one.
    absl::Time last_inference = absl::UnixEpoch();
  };
  virtual OpStatistics Statistics(absl::string_view op) const = 0;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_ENGINE_H_
