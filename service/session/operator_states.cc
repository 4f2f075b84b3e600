// States of operators' sessions, between the appends.
//
// The truth of such a session is its log: every append's inputs, or the state that they begin
// behind where older ones are not kept. Other states are caches of what the appends before them
// computed, and a lost one is computed again by the same calls, so that its bits are the same
// however it was lost.
#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "service/session/fault_point.h"
#include "service/session/operator_step.h"
#include "service/session/session_manager.h"

namespace attnd {
namespace {

// A state goes to the store when as much was read since the last as makes the way back long.
constexpr int64_t kSaveAfterBytes = int64_t{1} << 20;
constexpr int64_t kSaveAfterStates = 4;

absl::Status InSession(const LiveSession& session, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat("session ", session.id(), ": ", status.message()));
}

}  // namespace

// On the writer's thread, but for sessions that no store keeps.
void SessionManager::KeepState(LiveSession& session, const OperatorStep& step) {
  const SharedOperatorState& state = step.after;
  if (step.before != nullptr) session.op_states[step.begin] = step.before;
  session.op_states[state->position] = state;
  // The states behind which the last appends can be repeated.
  while (session.op_states.size() > limits_.anchors + 1) {
    session.op_states.erase(session.op_states.begin());
  }
  session.unsaved_bytes += step.input_bytes;
  // Where little is kept, soon enough for the log to begin behind one of them.
  const int64_t save_after =
      limits_.max_log_bytes == 0
          ? kSaveAfterBytes
          : std::min(kSaveAfterBytes, static_cast<int64_t>(limits_.max_log_bytes / kLogParts));
  if (session.durability != Durability::kNone &&
      session.unsaved_bytes > std::max(save_after, kSaveAfterStates * state->byte_size()) &&
      PutState(session, *state, session.log().ChainHashAt(state->position), "").ok()) {
    session.unsaved_bytes = 0;
    FaultPoint("feed.saved");
    DropOldStates(session);
  }
  session.NoteStateBytes();
}

// ---- States.

absl::Status SessionManager::CheckReachable(const LiveSession& session, uint64_t position) const {
  absl::Status retained = session.log().CheckRetained(position);
  if (!retained.ok()) return InSession(session, retained);
  if (session.op == nullptr || session.durability != Durability::kNone ||
      (position == 0 && session.op_base == nullptr) || session.op_states.count(position) > 0 ||
      (session.op_base != nullptr && session.op_base->position == position)) {
    return absl::OkStatus();
  }
  std::vector<uint64_t> kept;
  for (const auto& [at, state] : session.op_states) kept.push_back(at);
  return absl::OutOfRangeError(absl::StrCat(
      "session ", session.id(), ": position: given ", position,
      ", but a session of durability NONE keeps its last states alone: ",
      session.op_base == nullptr ? 0 : session.op_base->position, ", ", absl::StrJoin(kept, ", ")));
}

void SessionManager::NeedOperatorState(const SessionPtr& session, uint64_t position,
                                       StateDone then) {
  if (absl::Status s = CheckReachable(*session, position); !s.ok()) return then(s);
  SharedOperatorState best = session->op_base;
  const auto after = session->op_states.upper_bound(position);
  if (after != session->op_states.begin()) best = std::prev(after)->second;
  if (position == 0 && best == nullptr) return then(SharedOperatorState());
  if (best != nullptr && best->position == position) return then(std::move(best));
  writer_.Run([this, session, best = std::move(best), position, then = std::move(then)]() mutable {
    RestoreOperatorState(session, session->log().path(), std::move(best), position,
                         std::move(then));
  });
}

void SessionManager::RestoreOperatorState(const SessionPtr& session, const InputPath& path,
                                          SharedOperatorState best, uint64_t position,
                                          StateDone then) {
  const absl::Time start = absl::Now();
  FaultPoint("restore_state.asked");
  SessionMetrics::Tier tier =
      best == nullptr ? SessionMetrics::Tier::kTokens : SessionMetrics::Tier::kHost;
  SharedOperatorState stored;
  const auto hash_at = [&](uint64_t at) { return path.HashAt(at); };
  const auto take = [&](uint64_t at, absl::string_view bytes) -> absl::Status {
    auto wire = std::make_shared<v1::OperatorState>();
    if (!wire->ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) ||
        wire->position() != at) {
      return absl::DataLossError("state: not one of this session");
    }
    absl::StatusOr<SharedOperatorState> state = FromWire(std::move(wire));
    if (!state.ok()) return state.status();
    stored = *std::move(state);
    return absl::OkStatus();
  };
  const absl::Status found = FindState(*session, session->id(), position, hash_at, take);
  if (!found.ok() && !absl::IsNotFound(found)) return then(found);
  if (stored != nullptr && (best == nullptr || stored->position > best->position)) {
    best = std::move(stored);
    tier = SessionMetrics::Tier::kStore;
  }
  if (best == nullptr && path.base() > 0) {
    absl::StatusOr<SharedOperatorState> base = BaseState(*session, path);
    if (!base.ok()) return then(InSession(*session, base.status()));
    best = *std::move(base);
  }
  FaultPoint("restore_state.read");
  Replay(session, path, std::move(best), position,
         [this, start, tier,
          then = std::move(then)](absl::StatusOr<SharedOperatorState> state) mutable {
           metrics_.RecordRestore(tier, state.status(), absl::Now() - start);
           then(std::move(state));
         });
}

// What a path begins with is in the log's first record.
absl::StatusOr<SharedOperatorState> SessionManager::BaseState(const LiveSession& session,
                                                              const InputPath& path) {
  absl::StatusOr<std::shared_ptr<const v1::SessionRecord>> read =
      ReadRecord(session, session.log().first_record());
  if (!read.ok()) return read.status();
  const v1::SessionRecord& first = **read;
  const v1::SessionRecord::Created& created =
      first.has_trimmed() ? first.trimmed().created() : first.created();
  const std::string hash = path.HashAt(path.base());
  const v1::OperatorState* state = created.begin_hash() == hash ? &created.state() : nullptr;
  for (const auto& snapshot : first.trimmed().snapshots()) {
    if (snapshot.chain_hash() == hash && snapshot.has_state()) state = &snapshot.state();
  }
  if (state == nullptr || state->position() != path.base()) {
    return absl::DataLossError("its log does not have the state that it begins with");
  }
  return FromWire(std::shared_ptr<const v1::OperatorState>(*std::move(read), state));
}

absl::StatusOr<std::shared_ptr<const v1::SessionRecord>> SessionManager::ReadRecord(
    const LiveSession& session, uint64_t number) {
  const absl::StatusOr<std::vector<SessionStore::Record>> records =
      store_.ReadLog(session.id(), number, 1);
  if (!records.ok()) return records.status();
  auto record = std::make_shared<v1::SessionRecord>();
  if (records->size() != 1 || records->front().sequence != number ||
      !record->ParseFromString(records->front().bytes)) {
    return absl::DataLossError(absl::StrCat("session ", session.id(), ": record ", number,
                                            " of its log is damaged or missing"));
  }
  return std::shared_ptr<const v1::SessionRecord>(std::move(record));
}

// One append after another, as they were. On the writer's thread.
void SessionManager::Replay(const SessionPtr& session, const InputPath& path,
                            SharedOperatorState state, uint64_t position, StateDone then) {
  const uint64_t from = state == nullptr ? 0 : state->position;
  if (from >= position) return then(std::move(state));
  const InputPath::Step& next = path.steps()[path.StepsUpTo(from)];
  absl::StatusOr<std::shared_ptr<const v1::SessionRecord>> record =
      ReadRecord(*session, next.record);
  if (!record.ok()) return then(record.status());
  auto request = std::make_shared<v1::AppendRequest>();
  *request->mutable_inputs() = (*record)->fed().inputs();
  absl::StatusOr<std::shared_ptr<OperatorStep>> step =
      MakeStep(*session, *request, request, std::move(state));
  if (!step.ok()) return then(InSession(*session, step.status()));
  RunStep(session, *step,
          [this, session, &path, step = *step, position,
           then = std::move(then)](const absl::Status& ran) mutable {
            if (!ran.ok()) return then(ran);
            metrics_.replayed.Increment(static_cast<double>(step->length));
            FaultPoint("restore_state.replayed");
            // The store is read again, on the thread for that.
            writer_.Run([this, session, &path, step, position, then = std::move(then)]() mutable {
              Replay(session, path, step->after, position, std::move(then));
            });
          });
}

absl::Status SessionManager::PutState(const LiveSession& session, const OperatorState& state,
                                      absl::string_view chain_hash, const std::string& label) {
  const std::string bytes = ToWire(state).SerializeAsString();
  return PutParts(session, state.position, {chain_hash, bytes}, label);
}

}  // namespace attnd
