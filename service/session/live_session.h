// A session in memory.
#ifndef ATTND_SERVICE_SESSION_LIVE_SESSION_H_
#define ATTND_SERVICE_SESSION_LIVE_SESSION_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "attnd/v1/sessions.pb.h"
#include "kernels/core/registry.h"
#include "models/sequence_state.h"
#include "service/session/model_table.h"
#include "service/session/operator_state.h"
#include "service/session/session_log.h"
#include "service/session/session_store.h"

namespace attnd {

// Turns: who holds one has the session's log and states to itself; others read facts under the
// lock.
class LiveSession {
 public:
  explicit LiveSession(std::string id) : id_(std::move(id)) {}

  const std::string& id() const { return id_; }

  // Calls `run` when it is its turn: at once, or from Leave. RESOURCE_EXHAUSTED if too many wait.
  absl::Status Enter(size_t max_waiting, absl::AnyInvocable<void()> run) ABSL_LOCKS_EXCLUDED(mu_);
  // Ends a turn, and begins the next.
  void Leave() ABSL_LOCKS_EXCLUDED(mu_);
  bool idle() const ABSL_LOCKS_EXCLUDED(mu_);

  // What clients see; any thread.
  v1::Session Describe() const ABSL_LOCKS_EXCLUDED(mu_);
  // Applies a record of this session's log; in a turn.
  absl::Status Apply(const v1::SessionRecord& record, const SessionLog* parent = nullptr)
      ABSL_LOCKS_EXCLUDED(mu_);
  void set_durable(uint64_t position) ABSL_LOCKS_EXCLUDED(mu_);

  // In a turn.
  const SessionLog& log() const { return log_; }
  std::shared_ptr<const LoadedModel> model;
  const Operator* op = nullptr;  // Instead of a model.
  uint64_t epoch = 0;
  uint64_t records_written = 0;  // To the store.
  Durability durability = Durability::kAsync;

  // The state that has read tokens [0, position()); none while it must come from an anchor, the
  // store or the tokens.
  std::optional<models::SequenceState> state;
  // At multiples of the anchors' distance, and where snapshots stand; shared with forks, never
  // written.
  using Anchor = std::shared_ptr<const models::SequenceState>;
  std::map<uint64_t, Anchor> anchors;
  // Of snapshots, by name: states that have read tokens of theirs.
  std::map<std::string, Anchor> pinned;
  // Nobody finds this session, and it ends with its call: it keeps no anchors.
  bool transient = false;
  // The store has a state that has read so many of the session's tokens, or it had.
  uint64_t stored = 0;
  // Tokens that a state has read at some time: what is read again up to here is a repetition.
  uint64_t has_read = 0;
  uint64_t reading = 0;  // Where the piece of a prompt began that is being read.
  // Of an operator's session: states where its last appends ended, by position, and of snapshots;
  // and the one that it began with.
  std::map<uint64_t, SharedOperatorState> op_states;
  std::map<std::string, SharedOperatorState> op_pinned;
  SharedOperatorState op_base;
  int64_t unsaved_bytes = 0;  // Of inputs behind the last state in the store.
  // Drops the states that have read more than `most` tokens.
  void TakeBackTo(uint64_t most) ABSL_LOCKS_EXCLUDED(mu_);
  void NoteStateBytes() ABSL_LOCKS_EXCLUDED(mu_);
  int64_t state_bytes() const ABSL_LOCKS_EXCLUDED(mu_);

  struct Standing {
    bool idle;
    absl::Time used;
    double idle_seconds;  // That it may be.
    double expiry;        // As the store has it, in seconds since 1970.
    int64_t state_bytes;
    int64_t log_bytes;  // About, the session itself included.
  };
  Standing standing() const ABSL_LOCKS_EXCLUDED(mu_);
  void set_expiry(double seconds) ABSL_LOCKS_EXCLUDED(mu_);
  // Memory has let go of it: whoever waits for a turn must look for it again, in the store.
  bool forgotten() const ABSL_LOCKS_EXCLUDED(mu_);
  void set_forgotten() ABSL_LOCKS_EXCLUDED(mu_);

 private:
  const std::string id_;
  SessionLog log_;  // Written in turns under mu_, read in turns or under mu_.
  mutable absl::Mutex mu_;
  bool busy_ ABSL_GUARDED_BY(mu_) = false;
  bool forgotten_ ABSL_GUARDED_BY(mu_) = false;
  std::deque<absl::AnyInvocable<void()>> waiting_ ABSL_GUARDED_BY(mu_);
  absl::Time used_ ABSL_GUARDED_BY(mu_) = absl::Now();
  uint64_t durable_ ABSL_GUARDED_BY(mu_) = 0;
  double expiry_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t state_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  bool in_memory_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_LIVE_SESSION_H_
