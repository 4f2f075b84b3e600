// Sessions into files and out of them.
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/session/fault_point.h"
#include "service/session/requests.h"
#include "service/session/session_file.h"
#include "service/session/session_manager.h"

namespace attnd {

absl::Status FileRoom::Take(uint64_t have, uint64_t more) {
  absl::MutexLock lock(&mu_);
  if (have + more > max_) {
    return absl::ResourceExhaustedError(
        absl::StrCat("import: the file has more than ", max_, " bytes, the limit"));
  }
  if (taken_ + more > max_) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "import: files of ", taken_, " bytes are on their way: repeat the call later"));
  }
  taken_ += more;
  return absl::OkStatus();
}

void FileRoom::Release(uint64_t bytes) {
  absl::MutexLock lock(&mu_);
  taken_ -= bytes;
}

v1::SessionRecord SessionManager::CreatedBy(const v1::ImportHeader& header,
                                            const SessionFile& file) const {
  v1::SessionRecord record;
  record.set_idempotency_key(header.idempotency_key());
  v1::SessionRecord::Created& created = *record.mutable_created();
  created.set_seed(file.seed);
  created.set_durability(header.durability());
  created.set_idle_seconds(header.idle_seconds() > 0 ? header.idle_seconds()
                                                     : limits_.idle_seconds);
  created.mutable_labels()->insert(file.labels.begin(), file.labels.end());
  for (const auto& [key, value] : header.labels()) (*created.mutable_labels())[key] = value;
  return record;
}

void SessionManager::Export(v1::ExportRequest request,
                            absl::AnyInvocable<void(absl::StatusOr<std::string>)> done) {
  const std::string id = request.session();
  Enter(id, [this, request = std::move(request),
             done = std::move(done)](absl::StatusOr<SessionPtr> found) mutable {
    if (!found.ok()) return done(found.status());
    const SessionPtr session = *std::move(found);
    auto answer = [session, done = std::move(done)](absl::StatusOr<std::string> file) mutable {
      session->Leave();
      done(std::move(file));
    };
    const uint64_t position = session->log().position();
    if (request.has_expected_position() && request.expected_position() != position) {
      return answer(absl::FailedPreconditionError(
          absl::StrCat("session ", session->id(), ": expected_position: given ",
                       request.expected_position(), ", the session stands at ", position)));
    }
    FaultPoint("export.begin");
    if (session->op != nullptr) return ExportOperator(session, std::move(answer));
    CatchUp(session, MostRead(*session),
            [this, session, answer = std::move(answer)](const absl::Status& read) mutable {
              if (!read.ok()) return answer(read);
              FaultPoint("export.caught_up");
              const SessionLog& log = session->log();
              const v1::SessionRecord::Created& created = log.created();
              if (session->state->byte_size() > limits_.max_file_bytes) {
                return answer(absl::ResourceExhaustedError(absl::StrCat(
                    "session ", session->id(), ": its states have ", session->state->byte_size(),
                    " bytes, a file may have ", limits_.max_file_bytes)));
              }
              SessionFile file{created.model(),
                               created.weights_hash(),
                               created.seed(),
                               {created.labels().begin(), created.labels().end()},
                               {log.tokens().begin(), log.tokens().end()}};
              work_.Run([session, file = std::move(file), answer = std::move(answer)]() mutable {
                const absl::StatusOr<models::SequenceState> host = session->state->ToHost();
                if (!host.ok()) return answer(host.status());
                answer(FormatSessionFile(file, session->log().chain_hash(), *host,
                                         session->state->device()));
              });
            });
  });
}

void SessionManager::ExportOperator(const SessionPtr& session,
                                    absl::AnyInvocable<void(absl::StatusOr<std::string>)> answer) {
  const uint64_t position = session->log().position();
  NeedOperatorState(session, position,
                    [this, session, answer = std::move(answer)](
                        absl::StatusOr<SharedOperatorState> state) mutable {
                      if (!state.ok()) return answer(state.status());
                      const SharedOperatorState& read = *state;
                      if (read != nullptr && read->byte_size() > limits_.max_file_bytes) {
                        return answer(absl::ResourceExhaustedError(absl::StrCat(
                            "session ", session->id(), ": its states have ", read->byte_size(),
                            " bytes, a file may have ", limits_.max_file_bytes)));
                      }
                      work_.Run([session, read, answer = std::move(answer)]() mutable {
                        const v1::SessionRecord::Created& created = session->log().created();
                        SessionFile file;
                        file.seed = created.seed();
                        file.labels = {created.labels().begin(), created.labels().end()};
                        file.op = created.op();
                        file.attributes = created.attributes();
                        file.kernel = created.kernel();
                        file.chain_hash = session->log().chain_hash();
                        if (read != nullptr) file.state = ToWire(*read);
                        answer(FormatOperatorFile(file));
                      });
                    });
}

void SessionManager::ImportOperator(const v1::ImportHeader& header, const SessionFile& file,
                                    SessionDone done) {
  const auto bad = [&](absl::string_view what) {
    done(absl::InvalidArgumentError(absl::StrCat("session file: ", what)));
  };
  if (!header.model().empty()) {
    return bad(absl::StrCat("model: given \"", header.model(), "\" for a session of the operator ",
                            file.op, ", expected none"));
  }
  if (header.recompute()) {
    return bad(
        "recompute: given for an operator's session, whose file has no inputs to compute from");
  }
  v1::SessionRecord record = CreatedBy(header, file);
  v1::SessionRecord::Created& created = *record.mutable_created();
  created.set_op(file.op);
  created.set_kernel(file.kernel);
  *created.mutable_attributes() = file.attributes;
  if (absl::Status s = CheckCreated(created); !s.ok()) return done(s);
  const OpSpec& spec = (*FindOperator(file.op))->spec;
  for (const auto& [name, tensor] : file.state.tensors()) {
    if (FinalStateName(name).empty() || spec.FindInput(name) == nullptr) {
      return bad(absl::StrCat("state.", name, ": given, expected states of ", file.op));
    }
  }
  if (file.state.position() > 0) {
    *created.mutable_state() = file.state;
    created.set_begin_hash(file.chain_hash);
  }
  record.set_request_hash(HashOf(created));
  const std::string id = header.session().empty() ? NewSessionId() : header.session();
  CreateSoon(MakeSession(id, std::move(record)), std::move(done));
}

void SessionManager::Import(v1::ImportHeader header, std::string file, SessionDone done) {
  v1::CreateSessionRequest create;  // Whose rules an import's header follows.
  create.set_session(header.session());
  create.set_model(header.model().empty() ? "file" : header.model());
  create.set_idle_seconds(header.idle_seconds());
  create.set_idempotency_key(header.idempotency_key());
  *create.mutable_labels() = header.labels();
  if (absl::Status s = CheckCreate(create); !s.ok()) return done(s);
  // Hashing takes as long as the file is large: not on the thread on which all sessions write.
  work_.Run([this, header = std::move(header), file = std::move(file),
             done = std::move(done)]() mutable {
    absl::StatusOr<SessionFile> parsed = ParseSessionFile(file);
    if (!parsed.ok()) return done(parsed.status());
    if (!parsed->op.empty()) return ImportOperator(header, *parsed, std::move(done));
    const std::string name = header.model().empty() ? parsed->model : header.model();
    const absl::StatusOr<std::shared_ptr<const LoadedModel>> loaded = models_.Load(name);
    if (!loaded.ok()) return done(loaded.status());
    const models::LanguageModel& model = *(*loaded)->model;
    if (model.weights_hash() != parsed->weights_hash) {
      return done(absl::FailedPreconditionError(absl::StrCat("session file: weights_hash: given ",
                                                             parsed->weights_hash, ", model ", name,
                                                             " has ", model.weights_hash())));
    }
    const auto vocab = model.config().vocab_size;
    for (const int32_t token : parsed->tokens) {
      if (token < 0 || token >= vocab) {
        return done(absl::InvalidArgumentError(
            absl::StrCat("session file: tokens: given ", token, ", expected [0, ", vocab, ")")));
      }
    }
    if (parsed->tokens.size() > limits_.max_tokens) {
      return done(absl::ResourceExhaustedError(
          absl::StrCat("session file: tokens: given ", parsed->tokens.size(), ", expected at most ",
                       limits_.max_tokens)));
    }
    std::optional<models::SequenceState> state;
    if (!header.recompute()) {
      absl::StatusOr<models::SequenceState> taken = StateOfSessionFile(file, model);
      if (!taken.ok()) return done(taken.status());
      if (static_cast<uint64_t>(taken->position()) > parsed->tokens.size()) {
        return done(absl::InvalidArgumentError(absl::StrCat("session file: state_position: given ",
                                                            taken->position(), " behind ",
                                                            parsed->tokens.size(), " tokens")));
      }
      state = *std::move(taken);
    }
    FaultPoint("import.parsed");
    v1::SessionRecord record = CreatedBy(header, *parsed);
    v1::SessionRecord::Created& created = *record.mutable_created();
    created.set_model(name);
    created.set_weights_hash(parsed->weights_hash);
    created.mutable_tokens()->Assign(parsed->tokens.begin(), parsed->tokens.end());
    record.set_request_hash(HashOf(created));
    const std::string id = header.session().empty() ? NewSessionId() : header.session();
    CreateSoon(MakeSession(id, std::move(record)),
               [this, id, state = std::move(state),
                done = std::move(done)](absl::StatusOr<v1::Session> made) mutable {
                 FaultPoint("import.created");
                 if (made.ok() && state.has_value()) {
                   GiveStates(id, [&](LiveSession& session) { session.state = std::move(state); });
                 }
                 FaultPoint("import.given");
                 done(std::move(made));
               });
  });
}

}  // namespace attnd
