// States of sessions: reading tokens, going back, moving to the store and out of it.
#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "service/session/fault_point.h"
#include "service/session/session_manager.h"

namespace attnd {

std::vector<int32_t> SessionManager::Piece(const LiveSession& session, uint64_t end) const {
  const auto from = static_cast<uint64_t>(session.state->position());
  const uint64_t to = std::min(end, (from / limits_.anchor_every + 1) * limits_.anchor_every);
  if (from >= to) return {};
  const absl::Span<const int32_t> tokens = session.log().tokens().subspan(from, to - from);
  return {tokens.begin(), tokens.end()};
}

void SessionManager::AfterPiece(LiveSession& session) {
  const auto position = static_cast<uint64_t>(session.state->position());
  FaultPoint("read.piece");
  session.has_read = std::max(session.has_read, position);
  if (position % limits_.anchor_every == 0 && !session.transient) {
    // Without memory for it there is no anchor, and a rewind replays more.
    if (absl::StatusOr<models::SequenceState> copy = session.state->Copy(); copy.ok()) {
      session.anchors[position] = std::make_shared<const models::SequenceState>(*std::move(copy));
      FaultPoint("read.anchor");
      while (session.anchors.size() > limits_.anchors)
        session.anchors.erase(session.anchors.begin());
    }
  }
  session.NoteStateBytes();
}

void SessionManager::NeedState(const SessionPtr& session, uint64_t most, Then then) {
  session->TakeBackTo(most);
  if (session->state.has_value()) return then(absl::OkStatus());
  const absl::Time start = absl::Now();
  const auto after = session->anchors.upper_bound(most);
  const LiveSession::Anchor anchor =
      after == session->anchors.begin() ? nullptr : std::prev(after)->second;
  const auto set = [this, session, start](absl::StatusOr<models::SequenceState> state,
                                          SessionMetrics::Tier from) {
    // One that has read nothing yet is no restored one.
    if (session->has_read > 0) metrics_.RecordRestore(from, state.status(), absl::Now() - start);
    if (!state.ok()) return state.status();
    session->state = *std::move(state);
    session->NoteStateBytes();
    return absl::OkStatus();
  };
  const auto in_memory = [session, anchor, set] {
    return anchor == nullptr ? set(session->model->model->NewState(), SessionMetrics::Tier::kTokens)
                             : set(anchor->Copy(), SessionMetrics::Tier::kHost);
  };
  const uint64_t position = anchor == nullptr ? 0 : static_cast<uint64_t>(anchor->position());
  if (session->durability == Durability::kNone || most == position) return then(in_memory());
  writer_.Run([this, session, most, position, in_memory, set, then = std::move(then)]() mutable {
    FaultPoint("restore.asked");
    absl::StatusOr<models::SequenceState> state = GetState(*session, most);
    if (absl::IsNotFound(state.status()) ||
        (state.ok() && static_cast<uint64_t>(state->position()) < position)) {
      return then(in_memory());
    }
    FaultPoint("restore.read");
    then(set(std::move(state), SessionMetrics::Tier::kStore));
  });
}

// A state in the store stands behind the chain hash of the tokens that it has read: one that a
// session's rewind left behind is known by it.
absl::Status SessionManager::PutState(const LiveSession& session,
                                      const models::SequenceState& state,
                                      absl::string_view chain_hash, const std::string& label) {
  models::SequenceState::Image image;
  if (absl::Status s = state.Save(image); !s.ok()) return s;
  std::vector<absl::string_view> parts = {chain_hash};
  parts.insert(parts.end(), image.parts.begin(), image.parts.end());
  return PutParts(session, static_cast<uint64_t>(state.position()), parts, label);
}

absl::Status SessionManager::PutParts(const LiveSession& session, uint64_t position,
                                      absl::Span<const absl::string_view> parts,
                                      const std::string& label) {
  return store_.PutState(session.id(), session.epoch, {position, 0, label}, parts,
                         Durability::kAsync);
}

absl::StatusOr<models::SequenceState> SessionManager::GetState(const LiveSession& session,
                                                               uint64_t most) {
  uint64_t position = 0;
  const absl::StatusOr<std::string> bytes = GetStateBytes(session, most, &position);
  if (!bytes.ok()) return bytes.status();
  return session.model->model->LoadState(*bytes);
}

absl::StatusOr<std::string> SessionManager::GetStateBytes(const LiveSession& session, uint64_t most,
                                                          uint64_t* position) {
  for (;;) {
    SessionStore::StateInfo info;
    const absl::StatusOr<std::string> bytes = store_.GetState(session.id(), most, &info);
    if (!bytes.ok()) return bytes.status();
    const std::string hash = session.log().ChainHashAt(info.position);
    if (!hash.empty() && absl::StartsWith(*bytes, hash)) {
      *position = info.position;
      return bytes->substr(hash.size());
    }
    // Of tokens that were taken back; a snapshot may still be theirs.
    if (info.label.empty()) {
      absl::Status dropped = store_.DropState(session.id(), session.epoch, info.position);
      if (!dropped.ok()) return dropped;
    }
    if (info.position == 0) return absl::NotFoundError("no state of these tokens");
    most = info.position - 1;
  }
}

uint64_t SessionManager::MostRead(const LiveSession& session) {
  const uint64_t position = session.log().position();
  // An operator has no step that reads the last one.
  return position == 0 || session.op != nullptr ? position : position - 1;
}

void SessionManager::CountRead(LiveSession& session) {
  const auto position = static_cast<uint64_t>(session.state->position());
  const uint64_t begin = std::exchange(session.reading, position);
  const uint64_t again = std::min(position, session.has_read) - std::min(begin, session.has_read);
  metrics_.replayed.Increment(static_cast<double>(again));
  metrics_.prefilled.Increment(static_cast<double>(position - begin - again));
}

void SessionManager::CatchUp(const SessionPtr& session, uint64_t end, Then then,
                             std::shared_ptr<DecodeSink> listener) {
  NeedState(session, end,
            [this, session, end, listener = std::move(listener),
             then = std::move(then)](const absl::Status& status) mutable {
              if (!status.ok()) return then(status);
              std::vector<int32_t> first = Piece(*session, end);
              if (first.empty()) return then(absl::OkStatus());
              auto shared = std::make_shared<Then>(std::move(then));
              ModelRunner::Task task;
              FaultPoint("read.begin");
              task.state = &*session->state;
              task.tokens = std::move(first);
              session->reading = static_cast<uint64_t>(session->state->position());
              task.next = [this, session, end, listener, shared](absl::Status read,
                                                                 absl::Span<const float>) {
                std::vector<int32_t> more;
                if (read.ok()) {
                  CountRead(*session);
                  AfterPiece(*session);
                  more = Piece(*session, end);
                  if (!more.empty() && listener != nullptr &&
                      listener->Wish() != DecodeSink::Answer::kGoOn) {
                    read = absl::CancelledError("the client went away");
                    more.clear();
                  }
                }
                if (more.empty()) (*shared)(read);
                return more;
              };
              if (absl::Status s = session->model->runner->Start(std::move(task)); !s.ok())
                (*shared)(s);
            });
}

// The fork begins with the latest state that the parent has of its tokens.
void SessionManager::ShareStates(const LiveSession& parent, const std::string& fork,
                                 uint64_t position) {
  const uint64_t most = position == 0 ? 0 : position - 1;
  GiveStates(fork, [&](LiveSession& child) {
    for (const auto& [at, anchor] : parent.anchors) {
      if (at <= most) child.anchors[at] = anchor;
    }
    if (parent.state.has_value() && static_cast<uint64_t>(parent.state->position()) <= most) {
      if (absl::StatusOr<models::SequenceState> copy = parent.state->Copy(); copy.ok()) {
        child.state = *std::move(copy);
      }
    }
  });
}

void SessionManager::GiveStates(const std::string& id, absl::FunctionRef<void(LiveSession&)> give) {
  SessionPtr session;
  {
    absl::MutexLock lock(&mu_);
    const auto at = sessions_.find(id);
    if (at == sessions_.end()) return;
    session = at->second;
  }
  (void)session->Enter(0, [&] {
    if (!session->state.has_value() && session->log().size() == 1) {
      give(*session);
      session->NoteStateBytes();
    }
    session->Leave();
  });
}

// Once a second: sessions that nobody used for long end; states beyond the memory's limit go to the
// store, the longest unused first.
void SessionManager::Housekeep() {
  absl::Time next = absl::Now() + absl::Seconds(1);
  for (;;) {
    std::vector<SessionPtr> all;
    {
      absl::MutexLock lock(&mu_);
      mu_.AwaitWithDeadline(absl::Condition(&stopping_), next);
      if (stopping_) return;
      for (const auto& [id, session] : sessions_) all.push_back(session);
    }
    next = absl::Now() + absl::Seconds(1);
    std::sort(all.begin(), all.end(),
              [](const SessionPtr& a, const SessionPtr& b) { return a->used() < b->used(); });
    int64_t bytes = 0;
    for (const SessionPtr& session : all) bytes += session->state_bytes();
    for (const SessionPtr& session : all) {
      const double idle = session->log().created().idle_seconds();
      if (session->idle() && absl::Now() - session->used() > absl::Seconds(idle)) {
        v1::DeleteSessionRequest request;
        request.set_session(session->id());
        Delete(request, [this](const absl::Status& deleted) {
          if (deleted.ok()) metrics_.expired_idle.Increment();
        });
      } else if (bytes > limits_.max_state_bytes && session->idle() && session->state_bytes() > 0 &&
                 session->durability != Durability::kNone) {
        bytes -= session->state_bytes();
        Evict(session);
      }
    }
  }
}

void SessionManager::Evict(const SessionPtr& session) {
  (void)session->Enter(0, [this, session] {
    writer_.Run([this, session] {
      if (StoreStates(*session).ok()) metrics_.evictions.Increment();
      session->Leave();
    });
  });
}

// On the writer's thread, in a turn.
absl::Status SessionManager::StoreStates(LiveSession& session) {
  FaultPoint("evict.begin");
  for (const auto& [name, pin] : session.pinned) {
    const auto& snapshot = session.log().snapshots().find(name)->second;
    absl::Status status =
        PutState(session, *pin,
                 session.log().ChainHashOf(snapshot, static_cast<uint64_t>(pin->position())), name);
    if (!status.ok()) return status;
  }
  for (const auto& [name, pin] : session.op_pinned) {
    const std::string hash = session.log().snapshots().find(name)->second.chain_hash;
    if (absl::Status status = PutState(session, *pin, hash, name); !status.ok()) return status;
  }
  if (!session.op_states.empty()) {
    const OperatorState& state = *session.op_states.rbegin()->second;
    const std::string hash = session.log().ChainHashAt(state.position);
    if (absl::Status status = PutState(session, state, hash, ""); !status.ok()) return status;
    DropOldStates(session);
  }
  if (session.state.has_value()) {
    const auto position = static_cast<uint64_t>(session.state->position());
    absl::Status status =
        PutState(session, *session.state, session.log().ChainHashAt(position), "");
    if (!status.ok()) return status;
    DropOldStates(session);
  }
  FaultPoint("evict.stored");
  session.state.reset();
  session.anchors.clear();
  session.pinned.clear();
  session.op_states.clear();
  session.op_pinned.clear();
  session.op_base.reset();
  session.unsaved_bytes = 0;
  FaultPoint("evict.done");
  session.NoteStateBytes();
  return absl::OkStatus();
}

// Those of snapshots stay.
void SessionManager::DropOldStates(const LiveSession& session) {
  const absl::StatusOr<std::vector<SessionStore::StateInfo>> states =
      store_.ListStates(session.id());
  if (!states.ok()) return;  // They are found when they are asked for, or dropped next time.
  std::vector<uint64_t> old;
  for (const SessionStore::StateInfo& info : *states) {
    if (info.label.empty()) old.push_back(info.position);
  }
  for (size_t i = 0; i + limits_.anchors < old.size(); ++i) {
    (void)store_.DropState(session.id(), session.epoch, old[i]);
  }
}

}  // namespace attnd
