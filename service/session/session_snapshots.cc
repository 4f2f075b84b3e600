// Named points of a session.
#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/session/fault_point.h"
#include "service/session/requests.h"
#include "service/session/session_manager.h"

namespace attnd {
namespace {

v1::SnapshotInfo Describe(const LiveSession& session, const std::string& name,
                          const SessionLog::Snapshot& snapshot) {
  v1::SnapshotInfo info;
  info.set_session(session.id());
  info.set_snapshot(name);
  info.set_position(snapshot.position());
  info.set_chain_hash(snapshot.chain_hash);
  return info;
}

absl::Status NoSnapshot(const LiveSession& session, absl::string_view name) {
  return absl::NotFoundError(
      absl::StrCat("session ", session.id(), ": snapshot: given \"", name, "\", no such snapshot"));
}

}  // namespace

void SessionManager::Snapshot(v1::SnapshotRequest request, SnapshotDone done) {
  if (absl::Status s = CheckSessionId("snapshot", request.snapshot()); !s.ok()) return done(s);
  const std::string id = request.session();
  Enter(id, [this, request = std::move(request),
             done = std::move(done)](absl::StatusOr<SessionPtr> found) mutable {
    if (!found.ok()) return done(found.status());
    const SessionPtr session = *std::move(found);
    const std::string name = request.snapshot();
    auto answer = [session, name, done = std::move(done)](absl::Status status) mutable {
      absl::StatusOr<v1::SnapshotInfo> info = v1::SnapshotInfo();
      const auto made = session->log().snapshots().find(name);
      if (!status.ok()) {
        info = std::move(status);
      } else if (made == session->log().snapshots().end()) {  // Deleted since it was made.
        info = NoSnapshot(*session, name);
      } else {
        info = Describe(*session, name, made->second);
      }
      session->Leave();
      done(std::move(info));
    };
    Mutation mutation = MutationOf(request);
    const absl::StatusOr<const SessionLog::Request*> repeated = FindRepeated(*session, mutation);
    if (!repeated.ok()) return answer(repeated.status());
    if (*repeated != nullptr) return answer(absl::OkStatus());
    if (request.has_position()) {
      absl::Status reachable = CheckReachable(*session, request.position());
      if (!reachable.ok()) return answer(std::move(reachable));
    }
    Settle(session, mutation.expected,
           [this, session, name, mutation, request = std::move(request),
            answer = std::move(answer)](const absl::Status& status) mutable {
             if (!status.ok()) return answer(status);
             const SessionLog& now = session->log();
             const uint64_t position = request.has_position()
                                           ? std::min(request.position(), now.position())
                                           : now.position();
             const auto taken = now.snapshots().find(name);
             if (taken != now.snapshots().end()) {
               if (taken->second.position() == position &&
                   taken->second.chain_hash == now.ChainHashAt(position)) {
                 return answer(absl::OkStatus());
               }
               return answer(absl::AlreadyExistsError(absl::StrCat(
                   "session ", session->id(), ": snapshot: given \"", name,
                   "\", which names another point, at ", taken->second.position(), ", already")));
             }
             if (now.snapshots().size() >= limits_.max_snapshots) {
               return answer(absl::ResourceExhaustedError(
                   absl::StrCat("session ", session->id(), ": has ", limits_.max_snapshots,
                                " snapshots already, the limit: delete some")));
             }
             FaultPoint("snapshot.begin");
             v1::SessionRecord record;
             record.mutable_snapshotted()->set_snapshot(name);
             record.mutable_snapshotted()->set_position(position);
             Record(session, mutation, std::move(record),
                    [this, session, name,
                     answer = std::move(answer)](const absl::Status& recorded) mutable {
                      if (!recorded.ok()) return answer(recorded);
                      if (session->op != nullptr) {
                        return PinOperatorSnapshot(session, name, std::move(answer));
                      }
                      // So that the way back is short.
                      CatchUp(session, MostRead(*session),
                              [this, session, name,
                               answer = std::move(answer)](const absl::Status& read) mutable {
                                FaultPoint("snapshot.recorded");
                                if (read.ok()) PinSnapshot(*session, name);
                                FaultPoint("snapshot.pinned");
                                answer(absl::OkStatus());
                              });
                    });
           });
  });
}

void SessionManager::PinOperatorSnapshot(const SessionPtr& session, const std::string& name,
                                         Then then) {
  const uint64_t position = session->log().snapshots().find(name)->second.position();
  NeedOperatorState(
      session, position,
      [session, name, then = std::move(then)](absl::StatusOr<SharedOperatorState> state) mutable {
        // Without it the way back is longer.
        if (state.ok() && *state != nullptr) {
          session->op_pinned[name] = *std::move(state);
          session->NoteStateBytes();
        }
        then(absl::OkStatus());
      });
}

void SessionManager::PinSnapshot(LiveSession& session, const std::string& name) {
  const SessionLog::Snapshot& snapshot = session.log().snapshots().find(name)->second;
  if (snapshot.position() == 0) return;
  const uint64_t most = std::min(snapshot.position() - 1, session.log().CommonWith(snapshot));
  LiveSession::Anchor best;
  const auto after = session.anchors.upper_bound(most);
  if (after != session.anchors.begin()) best = std::prev(after)->second;
  if (session.state.has_value() && static_cast<uint64_t>(session.state->position()) <= most) {
    // Without memory for it the way back is longer.
    if (absl::StatusOr<models::SequenceState> copy = session.state->Copy(); copy.ok()) {
      best = std::make_shared<const models::SequenceState>(*std::move(copy));
    }
  }
  if (best != nullptr) session.pinned[name] = std::move(best);
  session.NoteStateBytes();
}

void SessionManager::ListSnapshots(
    const v1::ListSnapshotsRequest& request,
    absl::AnyInvocable<void(absl::StatusOr<v1::ListSnapshotsResponse>)> done) {
  Enter(request.session(), [done = std::move(done)](absl::StatusOr<SessionPtr> found) mutable {
    if (!found.ok()) return done(found.status());
    v1::ListSnapshotsResponse response;
    for (const auto& [name, snapshot] : (*found)->log().snapshots()) {
      *response.add_snapshots() = Describe(**found, name, snapshot);
    }
    (*found)->Leave();
    done(std::move(response));
  });
}

void SessionManager::Restore(v1::RestoreRequest request, SessionDone done) {
  const std::string id = request.session();
  Enter(id, [this, request = std::move(request),
             done = std::move(done)](absl::StatusOr<SessionPtr> found) mutable {
    if (!found.ok()) return done(found.status());
    const SessionPtr session = *std::move(found);
    auto answer = LeavingAnswer(session, std::move(done));
    Mutation mutation = MutationOf(request);
    const absl::StatusOr<const SessionLog::Request*> repeated = FindRepeated(*session, mutation);
    if (!repeated.ok()) return answer(repeated.status());
    if (*repeated != nullptr) return answer(absl::OkStatus());
    const std::string& name = request.snapshot();
    const auto at = session->log().snapshots().find(name);
    if (at == session->log().snapshots().end()) return answer(NoSnapshot(*session, name));
    const uint64_t common = session->log().CommonWith(at->second);
    FaultPoint("restore_snapshot.begin");
    v1::SessionRecord record;
    record.mutable_restored()->set_snapshot(name);
    Record(session, mutation, std::move(record),
           [this, session, name, common,
            answer = std::move(answer)](const absl::Status& status) mutable {
             if (!status.ok()) return answer(status);
             metrics_.rewinds.Increment();
             FaultPoint("restore_snapshot.recorded");
             const uint64_t most = MostRead(*session);
             session->TakeBackTo(std::min(common, most));
             const auto pin = session->pinned.find(name);
             if (pin != session->pinned.end()) {
               session->anchors[static_cast<uint64_t>(pin->second->position())] = pin->second;
             }
             const auto op_pin = session->op_pinned.find(name);
             if (op_pin != session->op_pinned.end()) {
               session->op_states[op_pin->second->position] = op_pin->second;
             }
             // The next step goes on from the best that memory or the store has.
             if (session->state.has_value() &&
                 static_cast<uint64_t>(session->state->position()) < most) {
               session->state.reset();
             }
             session->NoteStateBytes();
             answer(absl::OkStatus());
           });
  });
}

void SessionManager::DeleteSnapshot(v1::DeleteSnapshotRequest request, StatusDone done) {
  const std::string id = request.session();
  Enter(id, [this, request = std::move(request),
             done = std::move(done)](absl::StatusOr<SessionPtr> found) mutable {
    if (!found.ok()) return done(found.status());
    const SessionPtr session = *std::move(found);
    const std::string& name = request.snapshot();
    if (session->log().snapshots().count(name) == 0) {  // Deleted before, perhaps by this call.
      session->Leave();
      return done(absl::OkStatus());
    }
    v1::SessionRecord record;
    record.mutable_snapshot_dropped()->set_snapshot(name);
    Record(session, Mutation(), std::move(record),
           [this, session, name, done = std::move(done)](const absl::Status& status) mutable {
             session->pinned.erase(name);
             session->op_pinned.erase(name);
             session->NoteStateBytes();
             if (!status.ok() || session->durability == Durability::kNone) {
               session->Leave();
               return done(status);
             }
             writer_.Run([this, session, name, done = std::move(done)]() mutable {
               const auto states = store_.ListStates(session->id());
               for (size_t i = 0; states.ok() && i < states->size(); ++i) {
                 if ((*states)[i].label != name) continue;
                 (void)store_.DropState(session->id(), session->epoch, (*states)[i].position);
               }
               session->Leave();
               done(absl::OkStatus());
             });
           });
  });
}

}  // namespace attnd
