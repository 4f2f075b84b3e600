// Sessions on operators: appends that are calls, and states between them.
//
// The truth of such a session is its log: every append's inputs. A state is a cache of what the
// appends before it computed, and a lost one is computed again by the same calls, so that its bits
// are the same however it was lost.
#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "kernels/primitives/cpu/primitives_cpu.h"
#include "service/rpc/wire_tensor.h"
#include "service/session/fault_point.h"
#include "service/session/requests.h"
#include "service/session/session_manager.h"
#include "service/wire.h"

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

bool IsFinalState(const OpSpec& spec, absl::string_view output) {
  return std::any_of(spec.inputs().begin(), spec.inputs().end(),
                     [&](const Port& port) { return FinalStateName(port.name) == output; });
}

}  // namespace

// A call of an append, between its checks and its answer.
struct SessionManager::OperatorStep {
  CallRequest call;
  SharedOperatorState before;
  uint64_t begin = 0;
  uint64_t length = 0;
  int64_t input_bytes = 0;
  std::vector<std::string> wanted;
  // What came of it.
  Evaluation evaluation;
  SharedOperatorState after;
};

absl::StatusOr<const Operator*> SessionManager::FindOperator(const std::string& op) const {
  if (engine_ == nullptr) return absl::NotFoundError("op: this server evaluates no operators");
  return engine_->registry().Find(op);
}

absl::Status SessionManager::CheckCreated(const v1::SessionRecord::Created& created) const {
  const std::string& op = created.op();
  const absl::StatusOr<const Operator*> found = FindOperator(op);
  if (!found.ok()) return found.status();
  const OpSpec& spec = (*found)->spec;
  if (!spec.has_state()) {
    std::vector<std::string> able;
    for (const Operator* other : engine_->registry().operators()) {
      if (other->spec.has_state()) able.push_back(other->spec.id());
    }
    return Refusal("session", "op", absl::StrCat(op, ", which hands no state on"),
                   absl::StrCat("one of ", absl::StrJoin(able, ", ")));
  }
  if (absl::Status s = CheckText(op, "kernel", created.kernel()); !s.ok()) return s;
  for (const auto& [name, value] : created.attributes()) {
    if (spec.FindAttribute(name) == nullptr) {
      return Refusal(
          op, Quoted(name), "as an attribute",
          spec.attributes().empty()
              ? "none: this operator has no attributes"
              : absl::StrCat("one of ", absl::StrJoin(spec.attributes(), ", ",
                                                      [](std::string* out, const auto& a) {
                                                        absl::StrAppend(out, a.name);
                                                      })));
    }
    if (!FromWire(value).has_value()) {
      return Refusal(op, name, "no value",
                     "one of bool_value, int_value, float_value, string_value or a list");
    }
  }
  return absl::OkStatus();
}

// ---- Appends.

absl::StatusOr<std::shared_ptr<SessionManager::OperatorStep>> SessionManager::MakeStep(
    const LiveSession& session, const v1::AppendRequest& request,
    const std::shared_ptr<const void>& owner, SharedOperatorState before) const {
  const OpSpec& spec = session.op->spec;
  const std::string& op = spec.id();
  absl::StatusOr<NamedTensors> inputs = ViewTensors(op, request.inputs(), owner);
  if (!inputs.ok()) return inputs.status();
  auto step = std::make_shared<OperatorStep>();
  step->call.op = op;
  step->call.kernel = session.log().created().kernel();
  for (const auto& [name, value] : session.log().created().attributes()) {
    step->call.attributes.Set(name, *FromWire(value));
  }
  for (const auto& [name, tensor] : *inputs) step->input_bytes += tensor.byte_size();
  step->call.inputs = *std::move(inputs);
  if (step->call.inputs.contains("cu_seqlens")) {
    return Refusal(op, "cu_seqlens", "in a session",
                   "none: what a session reads is as long for each of its batch rows");
  }
  if (before != nullptr) {
    for (const auto& [name, tensor] : step->call.inputs) {
      if (FinalStateName(name).empty()) continue;
      return Refusal(op, name, absl::StrCat("at position ", before->position),
                     "none but in the first append: the session keeps it");
    }
    for (const auto& [name, tensor] : before->tensors) step->call.inputs.Set(name, tensor);
    step->begin = before->position;
  }
  step->before = std::move(before);
  const absl::StatusOr<BoundCall> bound = BindAndCheck(*session.op, step->call);
  if (!bound.ok()) return bound.status();
  const int64_t* length = bound->dims().Find("T");
  if (length == nullptr || *length < 1) {
    return Refusal(op, "inputs", "T = 0", "at least one position along T");
  }
  step->length = static_cast<uint64_t>(*length);
  bool hands_on = false;
  int64_t answer_bytes = 0;
  std::vector<std::string> there;
  for (const BoundCall::OutputSpec& output : bound->outputs()) {
    there.push_back(output.name);
    const bool state = IsFinalState(spec, output.name);
    hands_on = hands_on || state;
    const bool wanted = request.outputs().empty()
                            ? !state
                            : std::find(request.outputs().begin(), request.outputs().end(),
                                        output.name) != request.outputs().end();
    if (!wanted) continue;
    step->wanted.push_back(output.name);
    const absl::StatusOr<int64_t> bytes = CheckedByteSize(output.dtype, output.shape);
    if (!bytes.ok()) return bytes.status();
    answer_bytes += *bytes;
  }
  if (!hands_on) {
    return Refusal(op, "attributes", "such that no state is handed on", "such that one is");
  }
  for (const std::string& name : request.outputs()) {
    if (std::find(there.begin(), there.end(), name) == there.end()) {
      return Refusal(op, "outputs", absl::StrCat("'", Quoted(name), "'"),
                     absl::StrCat("of this call's: ", absl::StrJoin(there, ", ")));
    }
  }
  if (answer_bytes > limits_.max_answer_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        op, ": outputs: ", answer_bytes, " bytes, expected at most ", limits_.max_answer_bytes,
        " for one append: append fewer positions at a time"));
  }
  return step;
}

void SessionManager::RunStep(const SessionPtr& session, const std::shared_ptr<OperatorStep>& step,
                             Then then) {
  EngineCall call;
  call.request = step->call;
  engine_->Evaluate(std::move(call), [session, step, then = std::move(then)](
                                         absl::StatusOr<EngineResult> result) mutable {
    if (!result.ok()) return then(result.status());
    absl::StatusOr<SharedOperatorState> after =
        StateBehind(session->op->spec, result->evaluation.outputs, step->begin + step->length);
    if (!after.ok()) return then(after.status());
    step->evaluation = std::move(result->evaluation);
    step->after = *std::move(after);
    then(absl::OkStatus());
  });
}

void SessionManager::AppendInputs(const SessionPtr& session,
                                  const std::shared_ptr<const v1::AppendRequest>& request,
                                  AppendDone answer) {
  if (!request->tokens().empty() || !request->text().empty() || request->inputs().empty()) {
    return answer(Refusal(
        "session", "inputs", request->inputs().empty() ? "none" : "tokens or text beside them",
        absl::StrCat("the inputs of ", session->op->spec.id(), ", whose session this is, alone")));
  }
  const Mutation mutation = MutationOf(*request);
  const absl::StatusOr<const SessionLog::Request*> repeated = FindRepeated(*session, mutation);
  if (!repeated.ok()) return answer(repeated.status());
  const bool again = *repeated != nullptr;
  const uint64_t begin = again ? (*repeated)->position : session->log().position();
  if (!again && session->log().path().steps().size() >= limits_.max_tokens) {
    return answer(absl::ResourceExhaustedError(absl::StrCat(
        "session ", session->id(), ": has read ", limits_.max_tokens, " appends, the limit")));
  }
  NeedOperatorState(
      session, begin,
      [this, session, request, mutation, again,
       answer = std::move(answer)](absl::StatusOr<SharedOperatorState> before) mutable {
        if (!before.ok()) return answer(before.status());
        absl::StatusOr<std::shared_ptr<OperatorStep>> made =
            MakeStep(*session, *request, request, *std::move(before));
        if (!made.ok()) return answer(made.status());
        const std::shared_ptr<OperatorStep> step = *std::move(made);
        auto respond = [session, step, again,
                        answer = std::move(answer)](absl::Status status) mutable {
          if (!status.ok()) return answer(std::move(status));
          v1::AppendResponse response;
          response.set_position(step->begin + step->length);
          response.set_durable_position(session->Describe().durable_position());
          response.set_repeated_request(again);
          response.set_kernel(step->evaluation.kernel);
          response.set_device(step->evaluation.device);
          for (const std::string& name : step->wanted) {
            NamedTensors one;
            absl::StatusOr<Tensor> output = Contiguous(*step->evaluation.outputs.Find(name));
            if (!output.ok()) return answer(output.status());
            one.Set(name, *std::move(output));
            ToWire(one, *response.mutable_outputs());
          }
          answer(std::move(response));
        };
        FaultPoint("feed.begin");
        RunStep(session, step,
                [this, session, request, mutation, again, step,
                 respond = std::move(respond)](absl::Status ran) mutable {
                  if (!ran.ok() || again) return respond(std::move(ran));
                  FaultPoint("feed.evaluated");
                  v1::SessionRecord record;
                  v1::SessionRecord::Fed& fed = *record.mutable_fed();
                  fed.set_position(step->begin);
                  fed.set_length(step->length);
                  *fed.mutable_inputs() = request->inputs();
                  Record(session, mutation, std::move(record),
                         [this, session, step,
                          respond = std::move(respond)](absl::Status recorded) mutable {
                           if (recorded.ok()) {
                             FaultPoint("feed.recorded");
                             KeepState(*session, step->after, step->input_bytes);
                             FaultPoint("feed.kept");
                           }
                           respond(std::move(recorded));
                         });
                });
      });
}

// On the writer's thread, but for sessions that no store keeps.
void SessionManager::KeepState(LiveSession& session, const SharedOperatorState& state,
                               int64_t input_bytes) {
  session.op_states[state->position] = state;
  // The states behind which the last appends can be repeated.
  while (session.op_states.size() > limits_.anchors + 1) {
    session.op_states.erase(session.op_states.begin());
  }
  session.unsaved_bytes += input_bytes;
  if (session.durability != Durability::kNone &&
      session.unsaved_bytes > std::max(kSaveAfterBytes, kSaveAfterStates * state->byte_size()) &&
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
    RestoreOperatorState(session, std::move(best), position, std::move(then));
  });
}

void SessionManager::RestoreOperatorState(const SessionPtr& session, SharedOperatorState best,
                                          uint64_t position, StateDone then) {
  const absl::Time start = absl::Now();
  FaultPoint("restore_state.asked");
  SessionMetrics::Tier tier =
      best == nullptr ? SessionMetrics::Tier::kTokens : SessionMetrics::Tier::kHost;
  SharedOperatorState stored;
  const auto hash_at = [&](uint64_t at) { return session->log().ChainHashAt(at); };
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
  if (best == nullptr && session->log().path().base() > 0) {
    // What the session began with is in its first record.
    absl::StatusOr<std::shared_ptr<const v1::SessionRecord>> first = ReadRecord(*session, 0);
    if (!first.ok()) return then(first.status());
    absl::StatusOr<SharedOperatorState> base =
        FromWire(std::shared_ptr<const v1::OperatorState>(*first, &(*first)->created().state()));
    if (!base.ok()) return then(InSession(*session, base.status()));
    best = *std::move(base);
  }
  FaultPoint("restore_state.read");
  Replay(session, std::move(best), position,
         [this, start, tier,
          then = std::move(then)](absl::StatusOr<SharedOperatorState> state) mutable {
           metrics_.RecordRestore(tier, state.status(), absl::Now() - start);
           then(std::move(state));
         });
}

absl::StatusOr<std::shared_ptr<const v1::SessionRecord>> SessionManager::ReadRecord(
    const LiveSession& session, uint64_t number) {
  const absl::StatusOr<std::vector<SessionStore::Record>> records =
      store_.ReadLog(session.id(), number, 1);
  if (!records.ok()) return records.status();
  auto record = std::make_shared<v1::SessionRecord>();
  if (records->size() != 1 || !record->ParseFromString(records->front().bytes)) {
    return absl::DataLossError(absl::StrCat("session ", session.id(), ": record ", number,
                                            " of its log is damaged or missing"));
  }
  return std::shared_ptr<const v1::SessionRecord>(std::move(record));
}

// One append after another, as they were. On the writer's thread.
void SessionManager::Replay(const SessionPtr& session, SharedOperatorState state, uint64_t position,
                            StateDone then) {
  const uint64_t from = state == nullptr ? 0 : state->position;
  if (from >= position) return then(std::move(state));
  const InputPath& path = session->log().path();
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
          [this, session, step = *step, position,
           then = std::move(then)](const absl::Status& ran) mutable {
            if (!ran.ok()) return then(ran);
            metrics_.replayed.Increment(static_cast<double>(step->length));
            FaultPoint("restore_state.replayed");
            // The store is read again, on the thread for that.
            writer_.Run([this, session, step, position, then = std::move(then)]() mutable {
              Replay(session, step->after, position, std::move(then));
            });
          });
}

absl::Status SessionManager::PutState(const LiveSession& session, const OperatorState& state,
                                      absl::string_view chain_hash, const std::string& label) {
  const std::string bytes = ToWire(state).SerializeAsString();
  return PutParts(session, state.position, {chain_hash, bytes}, label);
}

// ---- Forks.

void SessionManager::ForkOperator(const SessionPtr& session, const v1::ForkRequest& request,
                                  v1::SessionRecord record, SessionDone done) {
  const uint64_t position = record.created().forked_at();
  const std::string fork = request.new_session().empty() ? NewSessionId() : request.new_session();
  NeedOperatorState(
      session, position,
      [this, session, fork, position, record = std::move(record),
       done = std::move(done)](absl::StatusOr<SharedOperatorState> state) mutable {
        if (!state.ok()) {
          session->Leave();
          return done(state.status());
        }
        if (*state != nullptr) {
          *record.mutable_created()->mutable_state() = ToWire(**state);
          record.mutable_created()->set_begin_hash(session->log().ChainHashAt(position));
        }
        CreateSoon(
            MakeSession(fork, std::move(record)),
            [this, session, done = std::move(done)](absl::StatusOr<v1::Session> made) mutable {
              if (made.ok()) metrics_.forks.Increment();
              session->Leave();
              done(std::move(made));
            });
      });
}

}  // namespace attnd
