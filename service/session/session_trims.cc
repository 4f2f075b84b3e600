// Operators' sessions forget inputs that lie far back: a state takes their place.
//
// The state is in the log's first record, written in the same change that drops the records before
// it. It is no cache: nothing could compute it again.
#include <algorithm>
#include <set>
#include <utility>

#include "service/session/fault_point.h"
#include "service/session/session_manager.h"

namespace attnd {
namespace {

// About what a step takes in the first record, and so what it costs to write it again.
constexpr uint64_t kStepBytes = 80;

// So much of what may be dropped at a time is never waited for.
constexpr uint64_t kMostParts = 8;

// Of the first record of a trimmed log.
uint64_t FirstRecordBytes(const LiveSession& session) {
  const uint64_t state =
      session.op_states.empty()
          ? 0
          : static_cast<uint64_t>(session.op_states.rbegin()->second->byte_size());
  return state * (1 + session.log().snapshots().size()) +
         kStepBytes * session.log().path().steps().size();
}

}  // namespace

void SessionManager::TrimLater(const SessionPtr& session) {
  const uint64_t most = limits_.max_log_bytes;
  if (most == 0) return;
  const SessionLog& log = session->log();
  // Not for a little: what is kept is then written more than once.
  const uint64_t least = std::max(most / kLogParts, FirstRecordBytes(*session));
  if (log.log_bytes() < most + least && log.path().steps().size() < limits_.max_tokens / 4 * 3) {
    return;
  }
  // Where many wait for a turn the next append tries again.
  (void)session->Enter(limits_.max_waiting, [this, session] {
    if (session->forgotten()) return session->Leave();
    writer_.Run([this, session] { Trim(session); });
  });
}

std::optional<uint64_t> SessionManager::TrimTarget(const LiveSession& session) const {
  const SessionLog& log = session.log();
  const InputPath& path = log.path();
  const size_t steps = path.steps().size();
  if (steps == 0) return std::nullopt;
  // The last append can always be repeated.
  const uint64_t latest = steps == 1 ? path.base() : path.steps()[steps - 2].end;
  const uint64_t least = std::max(limits_.max_log_bytes / kLogParts, FirstRecordBytes(session));
  std::set<uint64_t> ends = {path.base()};
  for (const auto& [position, state] : session.op_states) ends.insert(position);
  if (session.durability == Durability::kNone) {
    // Nothing before these can be reached.
    const uint64_t first = session.op_states.empty() ? latest : session.op_states.begin()->first;
    const uint64_t end = std::min(latest, first);
    return path.HasEnd(end) ? std::make_optional(end) : std::nullopt;
  }
  const absl::StatusOr<std::vector<SessionStore::StateInfo>> stored =
      store_.ListStates(session.id());
  for (size_t i = 0; stored.ok() && i < stored->size(); ++i) ends.insert((*stored)[i].position);
  for (auto at = ends.rbegin(); at != ends.rend(); ++at) {
    const uint64_t end = *at;
    if (end > latest || !path.HasEnd(end)) continue;
    const uint64_t behind = log.BytesBehind(end);
    if (steps - path.StepsUpTo(end) >= limits_.max_tokens / 2) return end;
    if (behind < limits_.max_log_bytes) continue;
    if (log.log_bytes() - behind < least) break;
    return end;
  }
  // Where much was taken back, it lies between what is still there: less of that stays then.
  if (log.log_bytes() < limits_.max_log_bytes + kMostParts * least) return std::nullopt;
  std::optional<uint64_t> best;
  for (auto at = ends.rbegin(); at != ends.rend(); ++at) {
    if (*at > latest || !path.HasEnd(*at)) continue;
    if (best.has_value() && log.BytesBehind(*at) > limits_.max_log_bytes) break;
    best = *at;
  }
  return best;
}

void SessionManager::Trim(const SessionPtr& session) {
  FaultPoint("trim.begin");
  const std::optional<uint64_t> target = TrimTarget(*session);
  if (!target.has_value()) return session->Leave();
  auto trim = std::make_shared<SessionLog::Trim>(session->log().TrimmedTo(*target));
  FillTrim(session, trim, 0, [this, session, trim](const absl::Status& filled) {
    FaultPoint("trim.filled");
    // Without its states there is no trimmed log; the next append tries again.
    if (filled.ok()) {
      if (StoreTrim(*session, *trim).ok()) {
        metrics_.trims.Increment();
      } else {
        // What the store has by now the store knows.
        Forget(session);
      }
    }
    session->Leave();
  });
}

void SessionManager::FillTrim(const SessionPtr& session,
                              const std::shared_ptr<SessionLog::Trim>& trim, int next, Then then) {
  v1::SessionRecord::Trimmed& trimmed = *trim->record.mutable_trimmed();
  const auto& snapshots = trimmed.snapshots();
  while (next > 0 && next <= snapshots.size() && snapshots[next - 1].shared()) ++next;
  if (next > snapshots.size()) return then(absl::OkStatus());
  const uint64_t position = next == 0 ? trim->position : snapshots[next - 1].position();
  StateDone take = [this, session, trim, next,
                    then = std::move(then)](absl::StatusOr<SharedOperatorState> state) mutable {
    if (!state.ok()) return then(state.status());
    if (*state != nullptr) {
      v1::SessionRecord::Trimmed& out = *trim->record.mutable_trimmed();
      *(next == 0 ? out.mutable_created()->mutable_state()
                  : out.mutable_snapshots(next - 1)->mutable_state()) = ToWire(**state);
    }
    FillTrim(session, trim, next + 1, std::move(then));
  };
  if (next == 0) return NeedOperatorState(session, position, std::move(take));
  const std::string& name = snapshots[next - 1].snapshot();
  const auto pin = session->op_pinned.find(name);
  if (pin != session->op_pinned.end()) return take(pin->second);
  const SessionLog::Snapshot& snapshot = session->log().snapshots().find(name)->second;
  if (position == 0) return take(nullptr);
  if (session->durability == Durability::kNone) return take(absl::NotFoundError("not pinned"));
  RestoreOperatorState(session, *snapshot.path, nullptr, position, std::move(take));
}

absl::Status SessionManager::StoreTrim(LiveSession& session, SessionLog::Trim& trim) {
  const bool stays = session.durability != Durability::kNone;
  if (stays) {
    const std::string bytes = trim.record.SerializeAsString();
    absl::Status stored =
        store_.TrimLog(session.id(), session.epoch, {trim.first, bytes}, session.durability);
    FaultPoint("trim.stored");
    if (!stored.ok()) return stored;
  }
  if (absl::Status applied = session.Apply(trim.record); !applied.ok()) return applied;
  FaultPoint("trim.applied");
  const auto begin = session.op_states.find(trim.position);
  session.op_base.reset();
  if (!stays && begin != session.op_states.end()) session.op_base = begin->second;
  session.op_states.erase(session.op_states.begin(), session.op_states.lower_bound(trim.position));
  session.NoteStateBytes();
  if (stays) DropOldStates(session);
  return absl::OkStatus();
}

}  // namespace attnd
