#include "service/session/session_manager.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "service/session/fault_point.h"
#include "service/session/requests.h"

namespace attnd {
namespace {

absl::Status ApplyStored(LiveSession& session, const SessionStore::Record& record) {
  v1::SessionRecord parsed;
  if (!parsed.ParseFromString(record.bytes)) {
    return absl::DataLossError(absl::StrCat("session ", session.id(), ": record ", record.sequence,
                                            " of its log is damaged"));
  }
  absl::Status applied = session.Apply(parsed);
  if (applied.ok()) return applied;
  return absl::DataLossError(absl::StrCat("session ", session.id(), ": record ", record.sequence,
                                          ": ", applied.message()));
}

}  // namespace

SessionManager::SessionManager(ModelTable& models, SessionStore& store, SessionMetrics& metrics,
                               const SessionLimits& limits, Engine* engine)
    : models_(models),
      engine_(engine),
      store_(store),
      metrics_(metrics),
      limits_(limits),
      file_room_(std::make_shared<FileRoom>(limits.max_file_bytes)),
      writer_(store),
      housekeeper_([this] { Housekeep(); }) {}

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
  absl::Status entered = session->Enter(limits_.max_waiting, [this, session, shared] {
    if (!session->forgotten()) return (*shared)(session);
    session->Leave();
    // It was deleted, or went to the store while this call waited: the store knows.
    Enter(session->id(),
          [shared](absl::StatusOr<SessionPtr> again) { (*shared)(std::move(again)); });
  });
  if (!entered.ok()) (*shared)(entered);
}

absl::StatusOr<SessionManager::SessionPtr> SessionManager::Recover(const std::string& id) {
  {
    absl::MutexLock lock(&mu_);
    const auto at = sessions_.find(id);
    if (at != sessions_.end()) return at->second;  // Another call was faster.
  }
  // Inputs of operators make long logs: not all of one at a time.
  constexpr uint64_t kPage = 256;
  std::shared_ptr<LiveSession> session;
  for (uint64_t first = 0;; first = session->log().size()) {
    // The first one alone: where it is a trimmed log's, it says what comes next.
    const uint64_t most = first == 0 ? 1 : kPage;
    absl::StatusOr<std::vector<SessionStore::Record>> records = store_.ReadLog(id, first, most);
    if (first == 0 && (absl::IsNotFound(records.status()) || (records.ok() && records->empty()))) {
      return absl::NotFoundError(absl::StrCat("session ", id, ": no such session"));
    }
    if (!records.ok()) return records.status();
    FaultPoint("recover.log_read");
    if (session == nullptr) session = std::make_shared<LiveSession>(id);
    for (const SessionStore::Record& record : *records) {
      if (absl::Status s = ApplyStored(*session, record); !s.ok()) return s;
    }
    if (records->size() < most) break;
  }
  FaultPoint("recover.applied");
  session->records_written = session->log().size();
  const v1::SessionRecord::Created& created = session->log().created();
  session->durability = DurabilityOf(created.durability());
  session->set_durable(session->log().position());
  if (absl::Status s = Equip(*session, created); !s.ok()) return s;
  session->has_read = MostRead(*session);
  FaultPoint("recover.model_loaded");
  absl::StatusOr<uint64_t> epoch = store_.Acquire(id);
  if (!epoch.ok()) return epoch.status();
  session->epoch = *epoch;
  // What was written and not promised is promised as soon as somebody hears of it.
  if (session->durability == Durability::kSync) {
    if (absl::Status s = store_.Flush(); !s.ok()) return s;
  }
  FaultPoint("recover.acquired");
  return Add(std::move(session));
}

absl::Status SessionManager::Equip(LiveSession& session,
                                   const v1::SessionRecord::Created& created) {
  const auto gone = [&](absl::string_view what, const absl::Status& status) {
    // Of the model, not of the session.
    if (!absl::IsNotFound(status)) return status;
    return absl::FailedPreconditionError(absl::StrCat(
        "session ", session.id(), ": its ", what, " is not there any more: ", status.message()));
  };
  if (!created.op().empty()) {
    const absl::StatusOr<const Operator*> op = FindOperator(created.op());
    if (!op.ok()) return gone("operator", op.status());
    session.op = *op;
    return absl::OkStatus();
  }
  absl::StatusOr<std::shared_ptr<const LoadedModel>> model = models_.Load(created.model());
  if (!model.ok()) return gone("model", model.status());
  if ((*model)->model->weights_hash() != created.weights_hash()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "session ", session.id(), ": model ", created.model(), " has other weights now: given ",
        (*model)->model->weights_hash(), ", expected ", created.weights_hash()));
  }
  session.model = *std::move(model);
  return absl::OkStatus();
}

absl::StatusOr<SessionManager::SessionPtr> SessionManager::Add(SessionPtr session) {
  absl::MutexLock lock(&mu_);
  const auto [at, added] = sessions_.emplace(session->id(), session);
  if (!added) {
    return absl::AlreadyExistsError(absl::StrCat("session ", session->id(), ": exists already"));
  }
  if (session->durability == Durability::kNone) ++in_memory_alone_;
  KeepExpiry(session, session->standing());
  return session;
}

void SessionManager::Forget(const SessionPtr& session) {
  absl::MutexLock lock(&mu_);
  session->set_forgotten();
  const auto at = sessions_.find(session->id());
  if (at == sessions_.end() || at->second != session) return;
  if (session->durability == Durability::kNone) --in_memory_alone_;
  sessions_.erase(at);
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
  if (log.is_operator() && *mutation.expected < log.path().base()) {
    return CheckReachable(session, *mutation.expected);
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
  FaultPoint("settle.before");
  // No request of a client's: nothing is remembered of it.
  RecordLater(session, record);
  FaultPoint("settle.written");
  if (absl::Status s = session->Apply(record); !s.ok()) return then(s);
  FaultPoint("settle.applied");
  session->TakeBackTo(MostRead(*session));
  then(absl::OkStatus());
}

void SessionManager::RecordLater(const SessionPtr& session, const v1::SessionRecord& record) {
  if (session->durability == Durability::kNone) return;
  FaultPoint("record_later.before");
  const uint64_t position = session->log().position();
  writer_.Write(
      {session->id(), session->epoch, {session->records_written++, record.SerializeAsString()}},
      Durability::kAsync, [this, session, position](const absl::Status& status) {
        FaultPoint("record_later.written");
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
  FaultPoint("record.before");
  std::string bytes = record.SerializeAsString();
  writer_.Write(
      {session->id(), session->epoch, {session->records_written++, std::move(bytes)}},
      session->durability,
      [this, session, record = std::move(record),
       then = std::move(then)](absl::Status status) mutable {
        FaultPoint("record.written");
        if (absl::IsInvalidArgument(status)) {
          // A gap: either an earlier write failed, or the store lost what it had.
          status = session->forgotten()
                       ? absl::UnavailableError(
                             absl::StrCat("session ", session->id(),
                                          ": the store could not be reached: repeat the call"))
                       : absl::DataLossError(absl::StrCat(
                             status.message(), ": the store has lost the session's last changes"));
        }
        if (status.ok()) status = session->Apply(record);
        if (!status.ok()) {
          Forget(session);
          return then(status);
        }
        session->set_durable(session->log().position());
        FaultPoint("record.applied");
        then(status);
        FaultPoint("record.answered");
      });
}

SessionManager::Usage SessionManager::usage() const {
  absl::MutexLock lock(&mu_);
  Usage usage = {};
  usage.max_state_bytes = limits_.max_state_bytes;
  usage.sessions = sessions_.size();
  for (const SessionPtr& session : transients_) usage.state_bytes += session->state_bytes();
  for (const auto& [id, session] : sessions_) {
    const int64_t bytes = session->state_bytes();
    usage.durable += session->durability == Durability::kNone ? 0 : 1;
    usage.states += bytes > 0 ? 1 : 0;
    usage.busy += bytes > 0 && !session->idle() ? 1 : 0;
    usage.state_bytes += bytes;
  }
  return usage;
}

}  // namespace attnd
