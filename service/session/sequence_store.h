// States that the server keeps between calls of a sequence (`sequence_id`), in memory.
//
// The calls of one sequence run one after another, in the order in which they asked. A sequence
// that nobody used for a while ends by itself. A call that fails leaves its sequence as it was.
#ifndef ATTND_SERVICE_SESSION_SEQUENCE_STORE_H_
#define ATTND_SERVICE_SESSION_SEQUENCE_STORE_H_

#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "kernels/core/call.h"

namespace attnd {

struct SequenceLimits {
  absl::Duration idle = absl::Seconds(60);
  size_t max_sequences = 10000;
  int64_t max_bytes = int64_t{4} << 30;
  // Calls that wait for their turn at one sequence.
  size_t max_waiting = 64;
};

class SequenceStore {
 private:
  struct Sequence;
  using Key = std::pair<std::string, std::string>;  // Operator, sequence id.

 public:
  // A call's turn at its sequence. Destroying a turn ends it.
  class Turn {
   public:
    Turn(Turn&&) noexcept = default;
    Turn& operator=(Turn&&) = delete;
    ~Turn();

    // What the last call left, by input name ("initial_state"); empty in the first call.
    const NamedTensors& states() const { return states_; }

    // Keeps copies of `states` for the next call, or ends the sequence. RESOURCE_EXHAUSTED if they
    // do not fit; the sequence is then as it was. At most once.
    absl::Status Commit(const NamedTensors& states, bool end);

   private:
    friend class SequenceStore;
    Turn(SequenceStore* store, std::shared_ptr<Sequence> sequence, NamedTensors states)
        : store_(store), sequence_(std::move(sequence)), states_(std::move(states)) {}

    SequenceStore* store_;
    std::shared_ptr<Sequence> sequence_;  // Null when moved from.
    NamedTensors states_;
  };

  using Ready = absl::AnyInvocable<void(absl::StatusOr<Turn>)>;

  explicit SequenceStore(const SequenceLimits& limits);
  // No turn may be held or waited for.
  ~SequenceStore();

  const SequenceLimits& limits() const { return limits_; }

  // Calls `ready` once, when it is this call's turn: at once, or from the thread that ends the turn
  // before. `start` begins the sequence anew. INVALID_ARGUMENT if there is no such sequence and the
  // call does not start it; RESOURCE_EXHAUSTED if there are too many sequences or waiting calls.
  void Enter(absl::string_view op, absl::string_view id, bool start, Ready ready)
      ABSL_LOCKS_EXCLUDED(mu_);

  struct Usage {
    size_t sequences;
    int64_t bytes;
    uint64_t expired;  // Ended by being idle.
  };
  Usage usage() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Waiting {
    bool start;
    Ready ready;
  };
  using Sequences = std::map<Key, std::shared_ptr<Sequence>>;

  // What the call that is next may have: its turn, or why it has none.
  absl::StatusOr<Turn> Admit(const std::shared_ptr<Sequence>& sequence, bool start)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Leave(const std::shared_ptr<Sequence>& sequence) ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status Store(Sequence& sequence, const NamedTensors& states, bool end)
      ABSL_LOCKS_EXCLUDED(mu_);
  void ExpireLoop() ABSL_LOCKS_EXCLUDED(mu_);

  const SequenceLimits limits_;
  mutable absl::Mutex mu_;
  Sequences sequences_ ABSL_GUARDED_BY(mu_);
  // Sequences that nobody holds, the longest idle first.
  std::list<Sequence*> idle_ ABSL_GUARDED_BY(mu_);
  int64_t bytes_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t expired_ ABSL_GUARDED_BY(mu_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread expirer_;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_SEQUENCE_STORE_H_
