// States of sessions: reading tokens, going back, moving to the store and out of it.
#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "service/session/fault_point.h"
#include "service/session/session_manager.h"

namespace attnd {
namespace {

// Logs of idle sessions may take this part of what states may.
constexpr int64_t kLogShare = 8;
// The part of a session's idle time in which the store hears once that it is used.
constexpr double kExpirySlack = 16;

// Which of the positions is missed least, never the last: where its neighbours are close to each
// other beside its distance from the end. Distances then grow with it.
size_t Dispensable(absl::Span<const uint64_t> positions) {
  size_t best = 0;
  double least = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i + 1 < positions.size(); ++i) {
    const uint64_t before = i == 0 ? 0 : positions[i - 1];
    const double missed = static_cast<double>(positions[i + 1] - before) /
                          static_cast<double>(positions.back() - positions[i]);
    if (missed < least) {
      least = missed;
      best = i;
    }
  }
  return best;
}

}  // namespace

std::vector<int32_t> SessionManager::Piece(const LiveSession& session, uint64_t end) const {
  const auto from = static_cast<uint64_t>(session.state->position());
  const uint64_t to = std::min(end, (from / limits_.anchor_every + 1) * limits_.anchor_every);
  if (from >= to) return {};
  const absl::Span<const int32_t> tokens = session.log().tokens().subspan(from, to - from);
  return {tokens.begin(), tokens.end()};
}

void SessionManager::AfterPiece(const SessionPtr& session) {
  const auto position = static_cast<uint64_t>(session->state->position());
  FaultPoint("read.piece");
  session->has_read = std::max(session->has_read, position);
  if (position % limits_.anchor_every == 0 && !session->transient) {
    // Without memory for it there is no anchor, and a rewind replays more.
    if (absl::StatusOr<models::SequenceState> copy = session->state->Copy(); copy.ok()) {
      auto anchor = std::make_shared<const models::SequenceState>(*std::move(copy));
      session->anchors[position] = anchor;
      FaultPoint("read.anchor");
      if (session->durability == Durability::kNone) {
        ThinAnchors(*session);
      } else {
        StoreCheckpoint(session, std::move(anchor));
        while (session->anchors.size() > limits_.anchors)
          session->anchors.erase(session->anchors.begin());
      }
    }
  }
  session->NoteStateBytes();
}

// No store has the anchors of a session that lives in memory alone: fewer, the further back.
void SessionManager::ThinAnchors(LiveSession& session) const {
  while (session.anchors.size() > limits_.anchors_in_memory) {
    std::vector<uint64_t> positions;
    for (const auto& [position, anchor] : session.anchors) positions.push_back(position);
    session.anchors.erase(positions[Dispensable(positions)]);
  }
}

// So that a rewind replays little, also when memory has forgotten the anchor.
void SessionManager::StoreCheckpoint(const SessionPtr& session, LiveSession::Anchor anchor) {
  const auto position = static_cast<uint64_t>(anchor->position());
  session->stored = std::max(session->stored, position);
  writer_.Run(
      [this, session, anchor = std::move(anchor), hash = session->log().ChainHashAt(position)] {
        FaultPoint("checkpoint.begin");
        // One that is not there costs time alone.
        if (PutState(*session, *anchor, hash, "").ok()) ThinStates(*session);
        FaultPoint("checkpoint.stored");
      });
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
    if (from == SessionMetrics::Tier::kStore) {
      session->stored = static_cast<uint64_t>(session->state->position());
    }
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
  const SessionLog& log = session.log();
  const auto hash_at = [&](uint64_t position) { return log.ChainHashAt(position); };
  absl::StatusOr<models::SequenceState> own = absl::NotFoundError("no state of these tokens");
  const auto taken_by = [&](absl::StatusOr<models::SequenceState>& state) {
    return [&](uint64_t position, absl::string_view bytes) {
      state = session.model->model->LoadState(bytes);
      if (state.ok() && static_cast<uint64_t>(state->position()) != position) {
        state = absl::DataLossError("state: of another position");
      }
      return state.status();
    };
  };
  absl::Status found = FindState(session, session.id(), most, hash_at, taken_by(own));
  if (!found.ok()) own = found;
  if (!found.ok() && !absl::IsNotFound(found)) return own;
  const uint64_t reached = own.ok() ? static_cast<uint64_t>(own->position()) : 0;
  // A fork began with its parent's tokens, and shares what states the parent had of them.
  const v1::SessionRecord::Created& created = log.created();
  const uint64_t shared = std::min(most, created.forked_at());
  if (created.parent().empty() || reached + limits_.anchor_every > shared) return own;
  const auto parents_hash_at = [&](uint64_t position) {
    return created.parent_seed() == created.seed()
               ? log.ChainHashAt(position)
               : SessionLog::ChainHashOf(created.parent_seed(), log.tokens().subspan(0, position));
  };
  absl::StatusOr<models::SequenceState> parents = absl::NotFoundError("no state of the parent");
  found = FindState(session, created.parent(), shared, parents_hash_at, taken_by(parents));
  const bool better = found.ok() && static_cast<uint64_t>(parents->position()) > reached;
  return better ? std::move(parents) : std::move(own);
}

absl::Status SessionManager::FindState(
    const LiveSession& session, const std::string& id, uint64_t most,
    absl::FunctionRef<std::string(uint64_t)> hash_at,
    absl::FunctionRef<absl::Status(uint64_t, absl::string_view)> take) {
  for (;;) {
    constexpr uint64_t kUnknown = ~uint64_t{0};
    SessionStore::StateInfo info{kUnknown, 0, ""};
    const absl::StatusOr<std::string> bytes = store_.GetState(id, most, &info);
    bool damaged = absl::IsDataLoss(bytes.status());
    if (!bytes.ok() && !damaged) return bytes.status();
    if (bytes.ok()) {
      const std::string hash = hash_at(info.position);
      if (!hash.empty() && absl::StartsWith(*bytes, hash)) {
        absl::Status taken = take(info.position, absl::string_view(*bytes).substr(hash.size()));
        damaged = absl::IsDataLoss(taken);
        if (!damaged && !absl::IsFailedPrecondition(taken)) return taken;
        // The store counts what it finds itself.
        (damaged ? metrics_.corruptions : metrics_.foreign_states).Increment();
      }
    }
    // A damaged cache is no loss: the log is whole, and older states may be.
    if (info.position == kUnknown) return absl::NotFoundError("no state can be found");
    // Of tokens that were taken back a snapshot may still be.
    const auto own = [&] {
      const std::string hash = session.log().ChainHashAt(info.position);
      return !hash.empty() && absl::StartsWith(*bytes, hash);
    };
    if (id == session.id() && (damaged || (info.label.empty() && !own()))) {
      absl::Status dropped = store_.DropState(id, session.epoch, info.position);
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
                  AfterPiece(session);
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

// Once a second, more often where memory is short: sessions that nobody used for long end; states
// and then logs beyond the memory's limits go to the store, the longest unused first.
void SessionManager::Housekeep() {
  absl::Duration pause = absl::Seconds(1);
  absl::Time sweep = absl::Now();
  for (;;) {
    std::vector<SessionPtr> all;
    {
      absl::MutexLock lock(&mu_);
      mu_.AwaitWithDeadline(absl::Condition(&stopping_), absl::Now() + pause);
      if (stopping_) return;
      all.reserve(sessions_.size());
      for (const auto& [id, session] : sessions_) all.push_back(session);
    }
    // On the writer's thread, on which sessions come into memory: none does meanwhile.
    if (absl::Now() >= sweep) {
      writer_.Run([this] { EndExpired(); });
      sweep = absl::Now() + absl::Seconds(1);
    }
    pause = Tidy(all) ? absl::Milliseconds(50) : absl::Seconds(1);
  }
}

// The store ends sessions that no memory has at some time after they may end: it hears of their use
// once in a sixteenth of the time that they may be idle, and gives them as much more.
void SessionManager::KeepExpiry(const SessionPtr& session, const LiveSession::Standing& standing) {
  if (session->durability == Durability::kNone) return;
  const double least = ToDoubleSeconds(standing.used - absl::UnixEpoch()) + standing.idle_seconds;
  if (standing.expiry >= least) return;
  const double expiry = least + std::max(1.0, standing.idle_seconds / kExpirySlack);
  session->set_expiry(expiry);
  writer_.Run([this, session, expiry] {
    // It was deleted, or is another's by now: nothing to keep.
    (void)store_.SetExpiry(session->id(), session->epoch, static_cast<uint64_t>(std::ceil(expiry)));
  });
}

// Sessions that only the store has, some at a time.
void SessionManager::EndExpired() {
  constexpr size_t kMost = 100;
  const absl::StatusOr<std::vector<std::string>> expired =
      store_.ListExpired(static_cast<uint64_t>(absl::ToUnixSeconds(absl::Now())), kMost);
  if (!expired.ok()) return;  // The next time.
  for (const std::string& id : *expired) {
    {
      absl::MutexLock lock(&mu_);
      if (sessions_.contains(id)) continue;  // Memory knows better.
    }
    const absl::StatusOr<uint64_t> epoch = store_.Acquire(id);
    if (epoch.ok() && store_.Delete(id, *epoch).ok()) metrics_.expired_idle.Increment();
  }
}

// Whether memory was short.
bool SessionManager::Tidy(absl::Span<const SessionPtr> all) {
  struct Idle {
    absl::Time used;
    int64_t bytes;
    const SessionPtr* session;
  };
  std::vector<Idle> with_state, without;
  int64_t state_bytes = 0, log_bytes = 0;
  const absl::Time now = absl::Now();
  for (const SessionPtr& session : all) {
    const LiveSession::Standing standing = session->standing();
    state_bytes += standing.state_bytes;
    log_bytes += standing.log_bytes;
    KeepExpiry(session, standing);
    if (!standing.idle) continue;
    if (now - standing.used > absl::Seconds(standing.idle_seconds)) {
      v1::DeleteSessionRequest request;
      request.set_session(session->id());
      Delete(request, [this](const absl::Status& deleted) {
        if (deleted.ok()) metrics_.expired_idle.Increment();
      });
    } else if (session->durability != Durability::kNone) {
      const bool holds = standing.state_bytes > 0;
      (holds ? with_state : without)
          .push_back({standing.used, holds ? standing.state_bytes : standing.log_bytes, &session});
    }
  }
  // The longest unused ones, until `bytes` are no more than `most`.
  const auto shrink = [](std::vector<Idle>& idle, int64_t bytes, int64_t most, auto let_go) {
    if (bytes <= most) return false;
    std::sort(idle.begin(), idle.end(),
              [](const Idle& a, const Idle& b) { return a.used < b.used; });
    for (const Idle& one : idle) {
      if (bytes <= most) break;
      bytes -= one.bytes;
      let_go(*one.session);
    }
    return true;
  };
  const bool states = shrink(with_state, state_bytes, limits_.max_state_bytes,
                             [this](const SessionPtr& session) { Evict(session); });
  const bool logs = shrink(without, log_bytes, limits_.max_state_bytes / kLogShare,
                           [this](const SessionPtr& session) { LetGo(session); });
  return states || logs;
}

// The store has all of it, or gets it before anybody can ask: writes go before reads.
void SessionManager::LetGo(const SessionPtr& session) {
  (void)session->Enter(0, [this, session] {
    const bool holds = session->state.has_value() || !session->anchors.empty() ||
                       !session->pinned.empty() || !session->op_states.empty() ||
                       !session->op_pinned.empty() || session->op_base != nullptr;
    if (!holds) {
      Forget(session);
    }
    session->Leave();
  });
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
    if (position >= session.stored + limits_.least_stored_tokens) {
      absl::Status status =
          PutState(session, *session.state, session.log().ChainHashAt(position), "");
      if (!status.ok()) return status;
      session.stored = position;
      ThinStates(session);
    }
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

// Of an operator's states the last ones stay, those of snapshots, and of the older ones some: its
// log may begin at one of them.
void SessionManager::DropOldStates(const LiveSession& session) {
  const absl::StatusOr<std::vector<SessionStore::StateInfo>> states =
      store_.ListStates(session.id());
  if (!states.ok()) return;  // They are found when they are asked for, or dropped next time.
  std::vector<uint64_t> old;
  for (const SessionStore::StateInfo& info : *states) {
    if (info.label.empty()) old.push_back(info.position);
  }
  const SessionLog& log = session.log();
  uint64_t last = log.path().base();
  for (size_t i = 0; i + limits_.anchors < old.size(); ++i) {
    const bool apart =
        log.path().HasEnd(old[i]) && log.BytesBehind(last) - log.BytesBehind(old[i]) >=
                                         std::max<uint64_t>(1, limits_.max_log_bytes / kLogParts);
    if (limits_.max_log_bytes > 0 && old[i] > last && apart) {
      last = old[i];
    } else {
      (void)store_.DropState(session.id(), session.epoch, old[i]);
    }
  }
}

// Of the states between checkpoints the last one stays, of the checkpoints what their limits allow;
// those of snapshots stay.
void SessionManager::ThinStates(const LiveSession& session) {
  const absl::StatusOr<std::vector<SessionStore::StateInfo>> states =
      store_.ListStates(session.id());
  if (!states.ok()) return;  // They are found when they are asked for, or dropped next time.
  const auto drop = [&](uint64_t position) {
    (void)store_.DropState(session.id(), session.epoch, position);
  };
  std::vector<uint64_t> checkpoints;
  std::vector<int64_t> sizes;
  int64_t bytes = 0;
  const uint64_t none = ~uint64_t{0};
  uint64_t between = none;
  for (const SessionStore::StateInfo& info : *states) {
    if (!info.label.empty()) continue;
    if (info.position % limits_.anchor_every == 0) {
      checkpoints.push_back(info.position);
      sizes.push_back(static_cast<int64_t>(info.bytes));
      bytes += sizes.back();
    } else {
      if (between != none) drop(between);
      between = info.position;
    }
  }
  while (checkpoints.size() > 2 &&
         (checkpoints.size() > limits_.max_checkpoints || bytes > limits_.max_checkpoint_bytes)) {
    const size_t at = Dispensable(checkpoints);
    drop(checkpoints[at]);
    bytes -= sizes[at];
    checkpoints.erase(checkpoints.begin() + static_cast<int64_t>(at));
    sizes.erase(sizes.begin() + static_cast<int64_t>(at));
  }
}

}  // namespace attnd
