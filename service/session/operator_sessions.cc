// Sessions on operators: appends that are calls, and forks.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/primitives/cpu/primitives_cpu.h"
#include "service/rpc/wire_tensor.h"
#include "service/session/fault_point.h"
#include "service/session/operator_step.h"
#include "service/session/requests.h"
#include "service/session/session_manager.h"
#include "service/wire.h"

namespace attnd {
namespace {

bool IsFinalState(const OpSpec& spec, absl::string_view output) {
  return std::any_of(spec.inputs().begin(), spec.inputs().end(),
                     [&](const Port& port) { return FinalStateName(port.name) == output; });
}

}  // namespace

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
                             KeepState(*session, *step);
                             FaultPoint("feed.kept");
                             TrimLater(session);
                           }
                           respond(std::move(recorded));
                         });
                });
      });
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
