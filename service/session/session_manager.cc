#include "service/session/session_manager.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "service/session/decode_run.h"
#include "service/session/requests.h"

namespace attnd {
namespace {

Durability DurabilityOf(v1::SessionDurability durability) {
  switch (durability) {
    case v1::NONE:
      return Durability::kNone;
    case v1::SYNC:
      return Durability::kSync;
    default:
      return Durability::kAsync;
  }
}

}  // namespace

SessionManager::SessionManager(ModelTable& models, SessionStore& store, const SessionLimits& limits)
    : models_(models), store_(store), limits_(limits), writer_(store), housekeeper_([this] {
        Housekeep();
      }) {}

SessionManager::~SessionManager() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  housekeeper_.join();
  // What steps still refers to this.
  models_.Stop();
}

// ---- Finding sessions.

void SessionManager::Enter(const std::string& id, Found found) {
  SessionPtr session;
  {
    absl::MutexLock lock(&mu_);
    const auto at = sessions_.find(id);
    if (at != sessions_.end()) session = at->second;
  }
  if (session == nullptr) {
    writer_.Run([this, id, found = std::move(found)]() mutable {
      absl::StatusOr<SessionPtr> recovered = Recover(id);
      if (!recovered.ok()) return found(recovered.status());
      Enter(id, std::move(found));
    });
    return;
  }
  // Shared, since whoever is refused a turn must still be answered.
  auto shared = std::make_shared<Found>(std::move(found));
  absl::Status entered = session->Enter(limits_.max_waiting, [session, shared] {
    if (!session->deleted()) return (*shared)(session);
    session->Leave();
    (*shared)(absl::NotFoundError(absl::StrCat("session ", session->id(), ": no such session")));
  });
  if (!entered.ok()) (*shared)(entered);
}

absl::StatusOr<SessionManager::SessionPtr> SessionManager::Recover(const std::string& id) {
  {
    absl::MutexLock lock(&mu_);
    const auto at = sessions_.find(id);
    if (at != sessions_.end()) return at->second;  // Another call was faster.
  }
  absl::StatusOr<std::vector<SessionStore::Record>> records = store_.ReadLog(id);
  if (absl::IsNotFound(records.status()) || (records.ok() && records->empty())) {
    return absl::NotFoundError(absl::StrCat("session ", id, ": no such session"));
  }
  if (!records.ok()) return records.status();
  auto session = std::make_shared<LiveSession>(id);
  for (const SessionStore::Record& record : *records) {
    v1::SessionRecord parsed;
    if (!parsed.ParseFromString(record.bytes)) {
      return absl::DataLossError(
          absl::StrCat("session ", id, ": record ", record.sequence, " of its log is damaged"));
    }
    if (absl::Status s = session->Apply(parsed); !s.ok()) {
      return absl::DataLossError(
          absl::StrCat("session ", id, ": record ", record.sequence, ": ", s.message()));
    }
  }
  session->records_written = records->size();
  const v1::SessionRecord::Created& created = session->log().created();
  session->durability = DurabilityOf(created.durability());
  session->set_durable(session->log().position());
  absl::StatusOr<std::shared_ptr<const LoadedModel>> model = models_.Load(created.model());
  if (!model.ok()) return model.status();
  if ((*model)->model->weights_hash() != created.weights_hash()) {
    return absl::FailedPreconditionError(
        absl::StrCat("session ", id, ": model ", created.model(), " has other weights now: given ",
                     (*model)->model->weights_hash(), ", expected ", created.weights_hash()));
  }
  session->model = *std::move(model);
  absl::StatusOr<uint64_t> epoch = store_.Acquire(id);
  if (!epoch.ok()) return epoch.status();
  session->epoch = *epoch;
  return Add(std::move(session));
}

absl::StatusOr<SessionManager::SessionPtr> SessionManager::Add(SessionPtr session) {
  absl::MutexLock lock(&mu_);
  const auto [at, added] = sessions_.emplace(session->id(), session);
  if (!added) {
    return absl::AlreadyExistsError(absl::StrCat("session ", session->id(), ": exists already"));
  }
  return session;
}

void SessionManager::Forget(const SessionPtr& session) {
  session->set_deleted();
  absl::MutexLock lock(&mu_);
  const auto at = sessions_.find(session->id());
  if (at != sessions_.end() && at->second == session) sessions_.erase(at);
}

// ---- Records.

absl::StatusOr<const SessionLog::Request*> SessionManager::FindRepeated(
    const LiveSession& session, const Mutation& mutation) const {
  const SessionLog& log = session.log();
  const SessionLog::Request* request = log.FindRequest(mutation.key, mutation.expected);
  const auto failed = [&](absl::string_view what) {
    return absl::FailedPreconditionError(absl::StrCat("session ", session.id(), ": ", what));
  };
  if (request != nullptr && request->hash == mutation.hash) return request;
  if (request != nullptr && !mutation.key.empty()) {
    return failed(absl::StrCat("idempotency_key: given \"", mutation.key,
                               "\" for another request than before"));
  }
  if (!mutation.expected.has_value() || *mutation.expected == log.position()) return nullptr;
  const SessionLog::Decode* open = log.open_decode();
  if (open != nullptr && *mutation.expected >= open->begin && *mutation.expected < log.position()) {
    return nullptr;  // Settled by taking back.
  }
  return failed(absl::StrCat("expected_position: given ", *mutation.expected,
                             ", the session stands at ", log.position()));
}

void SessionManager::Settle(const SessionPtr& session, std::optional<uint64_t> expected,
                            Then then) {
  const SessionLog& log = session->log();
  if (log.open_decode() == nullptr) return then(absl::OkStatus());
  v1::SessionRecord record;
  if (expected.has_value() && *expected < log.position()) {
    record.mutable_rewound()->set_position(*expected);
  } else {
    record.mutable_decode_ended()->set_position(log.position());
    record.mutable_decode_ended()->set_finish(v1::CANCELLED_BY_CLIENT);
  }
  // No request of a client's: nothing is remembered of it.
  RecordLater(session, record);
  if (absl::Status s = session->Apply(record); !s.ok()) return then(s);
  const uint64_t position = log.position();
  then(session->TakeBackTo(position == 0 ? 0 : position - 1));
}

void SessionManager::RecordLater(const SessionPtr& session, const v1::SessionRecord& record) {
  if (session->durability == Durability::kNone) return;
  const uint64_t position = session->log().position();
  writer_.Write(
      {session->id(), session->epoch, {session->records_written++, record.SerializeAsString()}},
      Durability::kAsync, [this, session, position](const absl::Status& status) {
        if (status.ok()) return session->set_durable(position);
        // The store holds less than this memory: what comes next must begin from there.
        Forget(session);
      });
}

void SessionManager::Record(const SessionPtr& session, const Mutation& mutation,
                            v1::SessionRecord record, Then then) {
  record.set_idempotency_key(mutation.key);
  record.set_request_hash(mutation.hash);
  if (session->durability == Durability::kNone) return then(session->Apply(record));
  std::string bytes = record.SerializeAsString();
  writer_.Write({session->id(), session->epoch, {session->records_written++, std::move(bytes)}},
                session->durability,
                [this, session, record = std::move(record),
                 then = std::move(then)](absl::Status status) mutable {
                  if (status.ok()) status = session->Apply(record);
                  if (!status.ok()) {
                    Forget(session);
                    return then(status);
                  }
                  session->set_durable(session->log().position());
                  then(status);
                });
}

// ---- States.

std::vector<int32_t> SessionManager::Piece(const LiveSession& session, uint64_t end) const {
  const auto from = static_cast<uint64_t>(session.state->position());
  const uint64_t to = std::min(end, (from / limits_.anchor_every + 1) * limits_.anchor_every);
  if (from >= to) return {};
  const absl::Span<const int32_t> tokens = session.log().tokens().subspan(from, to - from);
  return {tokens.begin(), tokens.end()};
}

void SessionManager::AfterPiece(LiveSession& session) {
  const auto position = static_cast<uint64_t>(session.state->position());
  if (position % limits_.anchor_every == 0) {
    // Without memory for it there is no anchor, and a rewind replays more.
    if (absl::StatusOr<models::SequenceState> copy = session.state->Copy(); copy.ok()) {
      session.anchors[position] = std::make_shared<const models::SequenceState>(*std::move(copy));
      while (session.anchors.size() > limits_.anchors)
        session.anchors.erase(session.anchors.begin());
    }
  }
  session.NoteStateBytes();
}

void SessionManager::NeedState(const SessionPtr& session, uint64_t most, Then then) {
  if (session->state.has_value()) return then(absl::OkStatus());
  const auto fresh = [session](Then go_on) {
    absl::StatusOr<models::SequenceState> state = session->model->model->NewState();
    if (!state.ok()) return go_on(state.status());
    session->state = *std::move(state);
    go_on(absl::OkStatus());
  };
  if (session->durability == Durability::kNone) return fresh(std::move(then));
  writer_.Run([this, session, most, fresh, then = std::move(then)]() mutable {
    SessionStore::StateInfo info;
    const absl::StatusOr<std::string> bytes = store_.GetState(session->id(), most, &info);
    if (absl::IsNotFound(bytes.status())) return fresh(std::move(then));
    if (!bytes.ok()) return then(bytes.status());
    absl::StatusOr<models::SequenceState> state =
        models::SequenceState::Load(session->model->model->layouts(), *bytes);
    if (!state.ok()) return then(state.status());
    session->state = *std::move(state);
    session->NoteStateBytes();
    {
      absl::MutexLock lock(&mu_);
      ++usage_.restored;
    }
    then(absl::OkStatus());
  });
}

void SessionManager::CatchUp(const SessionPtr& session, uint64_t end, Then then) {
  NeedState(session, end,
            [this, session, end, then = std::move(then)](const absl::Status& status) mutable {
              if (!status.ok()) return then(status);
              std::vector<int32_t> first = Piece(*session, end);
              if (first.empty()) return then(absl::OkStatus());
              auto shared = std::make_shared<Then>(std::move(then));
              ModelRunner::Task task;
              task.state = &*session->state;
              task.tokens = std::move(first);
              task.next = [this, session, end, shared](const absl::Status& read,
                                                       absl::Span<const float>) {
                std::vector<int32_t> more;
                if (read.ok()) {
                  AfterPiece(*session);
                  more = Piece(*session, end);
                }
                if (more.empty()) (*shared)(read);
                return more;
              };
              if (absl::Status s = session->model->runner->Start(std::move(task)); !s.ok())
                (*shared)(s);
            });
}

// ---- What clients ask for.

void SessionManager::Create(v1::CreateSessionRequest request, SessionDone done) {
  if (absl::Status s = CheckCreate(request); !s.ok()) return done(s);
  // Loading a model may take long: not on a thread that carries messages.
  writer_.Run([this, request = std::move(request), done = std::move(done)]() mutable {
    absl::StatusOr<std::shared_ptr<const LoadedModel>> model = models_.Load(request.model());
    if (!model.ok()) return done(model.status());
    const std::string id = request.session().empty() ? NewSessionId() : request.session();
    v1::SessionRecord record;
    record.set_idempotency_key(request.idempotency_key());
    record.set_request_hash(HashOf(request));
    v1::SessionRecord::Created& created = *record.mutable_created();
    created.set_model(request.model());
    created.set_weights_hash((*model)->model->weights_hash());
    created.set_seed(request.seed());
    created.set_durability(request.durability());
    created.set_idle_seconds(request.idle_seconds() > 0 ? request.idle_seconds()
                                                        : limits_.idle_seconds);
    *created.mutable_labels() = request.labels();
    CreateWith(id, record, std::move(done));
  });
}

// On the writer's thread.
void SessionManager::CreateWith(const std::string& id, const v1::SessionRecord& record,
                                SessionDone done) {
  // Repeated, it answers with the session that it made.
  if (absl::StatusOr<SessionPtr> there = Recover(id); there.ok()) {
    const SessionLog::Request* made =
        (*there)->log().FindRequest(record.idempotency_key(), uint64_t{0});
    if (made != nullptr && made->hash == record.request_hash()) return done((*there)->Describe());
    return done(absl::AlreadyExistsError(absl::StrCat("session ", id, ": exists already")));
  } else if (!absl::IsNotFound(there.status())) {
    return done(there.status());
  }
  absl::StatusOr<std::shared_ptr<const LoadedModel>> model = models_.Load(record.created().model());
  if (!model.ok()) return done(model.status());
  auto session = std::make_shared<LiveSession>(id);
  session->model = *std::move(model);
  session->durability = DurabilityOf(record.created().durability());
  absl::Status status = session->Apply(record);
  if (status.ok() && session->durability != Durability::kNone) {
    const absl::StatusOr<uint64_t> epoch = store_.Acquire(id);
    status = epoch.status();
    if (status.ok()) {
      session->epoch = *epoch;
      session->records_written = 1;
      status = store_.Append(id, *epoch, {0, record.SerializeAsString()}, session->durability);
      session->set_durable(session->log().position());
    }
  }
  if (status.ok()) status = Add(session).status();
  if (!status.ok()) return done(status);
  done(session->Describe());
}

void SessionManager::Get(const v1::GetSessionRequest& request, SessionDone done) {
  Enter(request.session(), [done = std::move(done)](absl::StatusOr<SessionPtr> found) mutable {
    if (!found.ok()) return done(found.status());
    v1::Session out = (*found)->Describe();
    (*found)->Leave();
    done(std::move(out));
  });
}

void SessionManager::Append(v1::AppendRequest request, AppendDone done) {
  const std::string id = request.session();
  Enter(id, [this, request = std::move(request),
             done = std::move(done)](absl::StatusOr<SessionPtr> found) mutable {
    if (!found.ok()) return done(found.status());
    const SessionPtr session = *std::move(found);
    auto answer = [session,
                   done = std::move(done)](absl::StatusOr<v1::AppendResponse> response) mutable {
      session->Leave();
      done(std::move(response));
    };
    absl::StatusOr<std::vector<int32_t>> tokens =
        TokensOf(*session->model, request.tokens(), request.text());
    if (!tokens.ok()) return answer(tokens.status());
    Mutation mutation{request.idempotency_key(),
                      request.has_expected_position()
                          ? std::optional<uint64_t>(request.expected_position())
                          : std::nullopt,
                      HashOf(request)};
    const absl::StatusOr<const SessionLog::Request*> repeated = FindRepeated(*session, mutation);
    if (!repeated.ok()) return answer(repeated.status());
    if (*repeated != nullptr) {
      v1::AppendResponse response;
      response.set_position((*repeated)->end);
      response.set_repeated_request(true);
      response.mutable_tokens()->Assign(tokens->begin(), tokens->end());
      return answer(std::move(response));
    }
    if (session->log().position() + tokens->size() > limits_.max_tokens) {
      return answer(absl::ResourceExhaustedError(absl::StrCat(
          "session ", session->id(), ": given ", tokens->size(), " tokens at position ",
          session->log().position(), ", expected at most ", limits_.max_tokens, " in all")));
    }
    const std::optional<uint64_t> expected = mutation.expected;
    Settle(session, expected,
           [this, session, mutation = std::move(mutation), tokens = *std::move(tokens),
            answer = std::move(answer)](const absl::Status& status) mutable {
             if (!status.ok()) return answer(status);
             v1::SessionRecord record;
             record.mutable_appended()->set_position(session->log().position());
             record.mutable_appended()->mutable_tokens()->Assign(tokens.begin(), tokens.end());
             Record(session, mutation, std::move(record),
                    [this, session, tokens = std::move(tokens),
                     answer = std::move(answer)](const absl::Status& recorded) mutable {
                      if (!recorded.ok()) return answer(recorded);
                      const uint64_t position = session->log().position();
                      CatchUp(
                          session, position == 0 ? 0 : position - 1,
                          [session, tokens = std::move(tokens), position,
                           answer = std::move(answer)](const absl::Status& read) mutable {
                            if (!read.ok()) return answer(read);
                            v1::AppendResponse response;
                            response.set_position(position);
                            response.set_durable_position(session->Describe().durable_position());
                            response.mutable_tokens()->Assign(tokens.begin(), tokens.end());
                            answer(std::move(response));
                          });
                    });
           });
  });
}

void SessionManager::Rewind(v1::RewindRequest request, SessionDone done) {
  const std::string id = request.session();
  Enter(id, [this, request = std::move(request),
             done = std::move(done)](absl::StatusOr<SessionPtr> found) mutable {
    if (!found.ok()) return done(found.status());
    const SessionPtr session = *std::move(found);
    auto answer = [session, done = std::move(done)](const absl::Status& status) mutable {
      v1::Session out = session->Describe();
      session->Leave();
      if (!status.ok()) return done(status);
      done(std::move(out));
    };
    Mutation mutation{request.idempotency_key(),
                      request.has_expected_position()
                          ? std::optional<uint64_t>(request.expected_position())
                          : std::nullopt,
                      HashOf(request)};
    const absl::StatusOr<const SessionLog::Request*> repeated = FindRepeated(*session, mutation);
    if (!repeated.ok()) return answer(repeated.status());
    if (*repeated != nullptr) return answer(absl::OkStatus());
    if (request.position() > session->log().position()) {
      return answer(absl::OutOfRangeError(
          absl::StrCat("session ", session->id(), ": position: given ", request.position(),
                       ", the session stands at ", session->log().position())));
    }
    v1::SessionRecord record;
    record.mutable_rewound()->set_position(request.position());
    Record(session, mutation, std::move(record),
           [session, answer = std::move(answer)](absl::Status status) mutable {
             const uint64_t position = session->log().position();
             if (status.ok()) status = session->TakeBackTo(position == 0 ? 0 : position - 1);
             answer(status);
           });
  });
}

void SessionManager::Fork(v1::ForkRequest request, SessionDone done) {
  const std::string id = request.session();
  Enter(id, [this, request = std::move(request),
             done = std::move(done)](absl::StatusOr<SessionPtr> found) mutable {
    if (!found.ok()) return done(found.status());
    const SessionPtr session = *std::move(found);
    const SessionLog& log = session->log();
    const uint64_t position = request.has_position() ? request.position() : log.position();
    if (position > log.position()) {
      const uint64_t stands = log.position();
      session->Leave();
      return done(
          absl::OutOfRangeError(absl::StrCat("session ", request.session(), ": position: given ",
                                             position, ", the session stands at ", stands)));
    }
    v1::SessionRecord record;
    record.set_idempotency_key(request.idempotency_key());
    record.set_request_hash(HashOf(request));
    v1::SessionRecord::Created& created = *record.mutable_created();
    created = log.created();
    if (request.has_seed()) created.set_seed(request.seed());
    created.set_parent(session->id());
    created.set_forked_at(position);
    *created.mutable_labels() = request.labels();
    created.mutable_tokens()->Assign(log.tokens().begin(),
                                     log.tokens().begin() + static_cast<int64_t>(position));
    const std::string fork = request.new_session().empty() ? NewSessionId() : request.new_session();
    writer_.Run([this, session, fork, position, record = std::move(record),
                 done = std::move(done)]() mutable {
      CreateWith(fork, record,
                 [this, session, fork, position,
                  done = std::move(done)](absl::StatusOr<v1::Session> made) mutable {
                   if (made.ok()) ShareStates(*session, fork, position);
                   session->Leave();
                   done(std::move(made));
                 });
    });
  });
}

// The fork begins with the latest state that the parent has of its tokens.
void SessionManager::ShareStates(const LiveSession& parent, const std::string& fork,
                                 uint64_t position) {
  SessionPtr child;
  {
    absl::MutexLock lock(&mu_);
    const auto at = sessions_.find(fork);
    if (at == sessions_.end()) return;
    child = at->second;
  }
  const uint64_t most = position == 0 ? 0 : position - 1;
  // In a turn of the child's, unless somebody was faster: then it reads its tokens itself.
  (void)child->Enter(0, [&] {
    if (!child->state.has_value()) {
      for (const auto& [at, anchor] : parent.anchors) {
        if (at <= most) child->anchors[at] = anchor;
      }
      if (parent.state.has_value() && static_cast<uint64_t>(parent.state->position()) <= most) {
        if (absl::StatusOr<models::SequenceState> copy = parent.state->Copy(); copy.ok()) {
          child->state = *std::move(copy);
        }
      }
      (void)child->TakeBackTo(most);
      child->NoteStateBytes();
    }
    child->Leave();
  });
}

void SessionManager::Delete(const v1::DeleteSessionRequest& request,
                            absl::AnyInvocable<void(absl::Status)> done) {
  const std::string& id = request.session();
  Enter(id, [this, done = std::move(done)](absl::StatusOr<SessionPtr> found) mutable {
    if (absl::IsNotFound(found.status())) return done(absl::OkStatus());
    if (!found.ok()) return done(found.status());
    const SessionPtr session = *std::move(found);
    writer_.Run([this, session, done = std::move(done)]() mutable {
      absl::Status status;
      if (session->durability != Durability::kNone) {
        status = store_.Delete(session->id(), session->epoch);
      }
      if (status.ok()) Forget(session);
      session->Leave();
      done(status);
    });
  });
}

void SessionManager::List(v1::ListSessionsRequest request,
                          absl::AnyInvocable<void(absl::StatusOr<v1::ListSessionsResponse>)> done) {
  writer_.Run([this, request = std::move(request), done = std::move(done)]() mutable {
    const size_t limit = request.limit() == 0 ? 100 : std::min<size_t>(request.limit(), 1000);
    absl::StatusOr<std::vector<std::string>> stored =
        store_.List(request.prefix(), request.after(), limit);
    if (!stored.ok()) return done(stored.status());
    std::vector<std::string> ids = *std::move(stored);
    std::map<std::string, SessionPtr> live;
    {
      absl::MutexLock lock(&mu_);
      for (const auto& [id, session] : sessions_) {
        if (id.rfind(request.prefix(), 0) == 0 && id > request.after()) live[id] = session;
      }
    }
    for (const auto& [id, session] : live) ids.push_back(id);
    std::sort(ids.begin(), ids.end());
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    v1::ListSessionsResponse response;
    if (ids.size() > limit) ids.resize(limit);
    if (ids.size() == limit) response.set_next(ids.back());
    for (const std::string& id : ids) {
      const auto at = live.find(id);
      if (at != live.end()) {
        *response.add_sessions() = at->second->Describe();
      } else {
        response.add_sessions()->set_session(id);
      }
    }
    done(std::move(response));
  });
}

SessionManager::Usage SessionManager::usage() const {
  absl::MutexLock lock(&mu_);
  Usage usage = usage_;
  usage.sessions = sessions_.size();
  for (const auto& [id, session] : sessions_) {
    const int64_t bytes = session->state_bytes();
    usage.states += bytes > 0 ? 1 : 0;
    usage.state_bytes += bytes;
  }
  return usage;
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
        Delete(request, [](const absl::Status&) {});
        absl::MutexLock lock(&mu_);
        ++usage_.expired;
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
      if (session->state.has_value()) {
        models::SequenceState::Image image;
        session->state->Save(image);
        const SessionStore::StateInfo info{static_cast<uint64_t>(session->state->position()), 0,
                                           ""};
        if (store_.PutState(session->id(), session->epoch, info, image.parts, Durability::kAsync)
                .ok()) {
          session->state.reset();
          session->anchors.clear();
          session->NoteStateBytes();
          absl::MutexLock lock(&mu_);
          ++usage_.evicted;
        }
      }
      session->Leave();
    });
  });
}

}  // namespace attnd
