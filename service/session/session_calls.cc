// What clients ask of sessions.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/session/fault_point.h"
#include "service/session/requests.h"
#include "service/session/session_manager.h"

namespace attnd {

void SessionManager::Create(v1::CreateSessionRequest request, SessionDone done) {
  if (absl::Status s = CheckCreate(request); !s.ok()) return done(s);
  // Loading a model may take long: not on a thread that carries messages.
  writer_.Run([this, request = std::move(request), done = std::move(done)]() mutable {
    FaultPoint("create.begin");
    const std::string id = request.session().empty() ? NewSessionId() : request.session();
    v1::SessionRecord record;
    record.set_idempotency_key(request.idempotency_key());
    record.set_request_hash(HashOf(request));
    v1::SessionRecord::Created& created = *record.mutable_created();
    if (request.op().empty()) {
      absl::StatusOr<std::shared_ptr<const LoadedModel>> model = models_.Load(request.model());
      if (!model.ok()) return done(model.status());
      created.set_model(request.model());
      created.set_weights_hash((*model)->model->weights_hash());
    } else {
      created.set_op(request.op());
      *created.mutable_attributes() = request.attributes();
      created.set_kernel(request.kernel());
      if (absl::Status s = CheckCreated(created); !s.ok()) return done(s);
    }
    created.set_seed(request.seed());
    created.set_durability(request.durability());
    created.set_idle_seconds(request.idle_seconds() > 0 ? request.idle_seconds()
                                                        : limits_.idle_seconds);
    *created.mutable_labels() = request.labels();
    Create(MakeSession(id, std::move(record)), std::move(done));
  });
}

absl::StatusOr<SessionManager::NewSession> SessionManager::MakeSession(const std::string& id,
                                                                       v1::SessionRecord record,
                                                                       const SessionLog* parent) {
  NewSession made{std::make_shared<LiveSession>(id), ""};
  LiveSession& session = *made.session;
  v1::SessionRecord::Created& created = *record.mutable_created();
  session.durability = DurabilityOf(created.durability());
  if (session.durability != Durability::kNone) made.record = record.SerializeAsString();
  if (absl::Status s = session.Apply(record, parent); !s.ok()) return s;
  if (created.has_state()) {
    absl::StatusOr<SharedOperatorState> base =
        FromWire(std::shared_ptr<const v1::OperatorState>(created.release_state()));
    if (!base.ok()) return base.status();
    session.op_base = *std::move(base);
    session.NoteStateBytes();
  }
  return made;
}

void SessionManager::CreateSoon(absl::StatusOr<NewSession> made, SessionDone done) {
  writer_.Run([this, made = std::move(made), done = std::move(done)]() mutable {
    Create(std::move(made), std::move(done));
  });
}

void SessionManager::Create(absl::StatusOr<NewSession> made, SessionDone done) {
  if (!made.ok()) return done(made.status());
  const SessionPtr session = std::move(made->session);
  const std::string& id = session->id();
  // Repeated, it answers with the session that it made.
  if (absl::StatusOr<SessionPtr> there = Recover(id); there.ok()) {
    const SessionLog& log = (*there)->log();
    if (log.creation_key() == session->log().creation_key() &&
        log.creation().hash == session->log().creation().hash) {
      return done((*there)->Describe());
    }
    return done(absl::AlreadyExistsError(absl::StrCat("session ", id, ": exists already")));
  } else if (!absl::IsNotFound(there.status())) {
    return done(there.status());
  }
  if (absl::Status s = CheckCount(); !s.ok()) return done(s);
  absl::Status status = Equip(*session, session->log().created());
  if (status.ok() && session->durability != Durability::kNone) {
    const absl::StatusOr<uint64_t> epoch = store_.Acquire(id);
    status = epoch.status();
    if (status.ok()) {
      FaultPoint("create.acquired");
      session->epoch = *epoch;
      session->records_written = 1;
      status = store_.Append(id, *epoch, {0, std::move(made->record)}, session->durability);
      session->set_durable(session->log().position());
    }
  }
  FaultPoint("create.written");
  if (status.ok()) status = Add(session).status();
  FaultPoint("create.added");
  if (!status.ok()) return done(status);
  done(session->Describe());
}

absl::Status SessionManager::CheckCount() const {
  uint64_t count = store_.CountSessions();
  {
    absl::MutexLock lock(&mu_);
    count += in_memory_alone_;
  }
  if (count < limits_.max_sessions) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("sessions: there are ", count, ", at most ", limits_.max_sessions,
                   " may be: delete some, or repeat the call later"));
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
    if (session->op != nullptr) {
      return AppendInputs(session, std::make_shared<const v1::AppendRequest>(std::move(request)),
                          std::move(answer));
    }
    if (!request.inputs().empty() || !request.outputs().empty()) {
      return answer(absl::InvalidArgumentError(
          absl::StrCat("session ", session->id(),
                       ": inputs: given for a language model, expected tokens or text")));
    }
    absl::StatusOr<std::vector<int32_t>> tokens =
        TokensOf(*session->model, request.tokens(), request.text());
    if (!tokens.ok()) return answer(tokens.status());
    Mutation mutation = MutationOf(request);
    FaultPoint("append.begin");
    const absl::StatusOr<const SessionLog::Request*> repeated = FindRepeated(*session, mutation);
    if (!repeated.ok()) return answer(repeated.status());
    if (*repeated != nullptr) {
      FaultPoint("append.repeated");
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
                      FaultPoint("append.recorded");
                      const uint64_t position = session->log().position();
                      CatchUp(
                          session, MostRead(*session),
                          [session, tokens = std::move(tokens), position,
                           answer = std::move(answer)](const absl::Status& read) mutable {
                            if (!read.ok()) return answer(read);
                            FaultPoint("append.read");
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

absl::AnyInvocable<void(const absl::Status&)> SessionManager::LeavingAnswer(SessionPtr session,
                                                                            SessionDone done) {
  return
      [session = std::move(session), done = std::move(done)](const absl::Status& status) mutable {
        v1::Session out = session->Describe();
        session->Leave();
        if (!status.ok()) return done(status);
        done(std::move(out));
      };
}

void SessionManager::Rewind(v1::RewindRequest request, SessionDone done) {
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
    if (absl::Status s = CheckReachable(*session, request.position()); !s.ok()) return answer(s);
    FaultPoint("rewind.begin");
    v1::SessionRecord record;
    record.mutable_rewound()->set_position(request.position());
    Record(session, mutation, std::move(record),
           [this, session, answer = std::move(answer)](const absl::Status& status) mutable {
             if (status.ok()) {
               metrics_.rewinds.Increment();
               FaultPoint("rewind.recorded");
               session->TakeBackTo(MostRead(*session));
               FaultPoint("rewind.taken_back");
             }
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
    if (absl::Status s = CheckReachable(*session, position); !s.ok()) {
      session->Leave();
      return done(s);
    }
    FaultPoint("fork.begin");
    v1::SessionRecord record;
    record.set_idempotency_key(request.idempotency_key());
    record.set_request_hash(HashOf(request));
    v1::SessionRecord::Created& created = *record.mutable_created();
    created = log.created();
    created.set_parent_seed(created.seed());
    if (request.has_seed()) created.set_seed(request.seed());
    created.set_parent(session->id());
    created.set_forked_at(position);
    *created.mutable_labels() = request.labels();
    created.clear_begin_hash();
    if (session->op != nullptr) {
      return ForkOperator(session, request, std::move(record), std::move(done));
    }
    created.mutable_tokens()->Assign(log.tokens().begin(),
                                     log.tokens().begin() + static_cast<int64_t>(position));
    const std::string fork = request.new_session().empty() ? NewSessionId() : request.new_session();
    const bool hashes = created.seed() != log.created().seed();
    auto make = [this, session, fork, position, record = std::move(record),
                 done = std::move(done)]() mutable {
      CreateSoon(MakeSession(fork, std::move(record), &session->log()),
                 [this, session, fork, position,
                  done = std::move(done)](absl::StatusOr<v1::Session> made) mutable {
                   if (made.ok()) {
                     metrics_.forks.Increment();
                     FaultPoint("fork.created");
                     ShareStates(*session, fork, position);
                     FaultPoint("fork.shared");
                   }
                   session->Leave();
                   done(std::move(made));
                 });
    };
    // All tokens anew, where the parent's hashes are not the fork's.
    hashes ? work_.Run(std::move(make)) : make();
  });
}

void SessionManager::Delete(const v1::DeleteSessionRequest& request, StatusDone done) {
  const std::string& id = request.session();
  Enter(id, [this, id, done = std::move(done)](absl::StatusOr<SessionPtr> found) mutable {
    if (absl::IsNotFound(found.status())) return done(absl::OkStatus());
    if (absl::IsFailedPrecondition(found.status())) {  // Its model is gone, or another.
      return writer_.Run([this, id, done = std::move(done)]() mutable {
        const absl::StatusOr<uint64_t> epoch = store_.Acquire(id);
        done(epoch.ok() ? store_.Delete(id, *epoch) : epoch.status());
      });
    }
    if (!found.ok()) return done(found.status());
    const SessionPtr session = *std::move(found);
    writer_.Run([this, session, done = std::move(done)]() mutable {
      FaultPoint("delete.begin");
      absl::Status status;
      if (session->durability != Durability::kNone) {
        status = store_.Delete(session->id(), session->epoch);
      }
      FaultPoint("delete.stored");
      if (status.ok()) Forget(session);
      FaultPoint("delete.forgotten");
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

}  // namespace attnd
