#include "service/session/model_sequences.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "service/session/requests.h"

namespace attnd {

// One step from its turn to its answer. Each part continues with the next where the manager
// answers, on this thread or another.
class ModelSequences::Step : public std::enable_shared_from_this<Step> {
 public:
  Step(ModelSequences& sequences, SequenceStepCall call, Done done)
      : sequences_(sequences), call_(std::move(call)), done_(std::move(done)) {}

  const std::string& session() const { return call_.session; }

  void Refuse(absl::Status status) { done_(std::move(status)); }

  void Run() {
    if (absl::Status s = call_.wanted(); !s.ok()) return Answer(s);
    if (!call_.start) return Find();
    Remove([self = shared_from_this()](absl::Status removed) {
      removed.ok() ? self->Create() : self->Answer(std::move(removed));
    });
  }

 private:
  // The events of the step's decode.
  class Sink final : public DecodeSink {
   public:
    explicit Sink(std::shared_ptr<Step> step) : step_(std::move(step)) {}
    Answer Event(v1::DecodeEvent event) override {
      SequenceStepAnswer& answer = step_->answer_;
      answer.text += event.text();
      // Of a decode that is asked for again, where it went then.
      answer.position = event.position() + static_cast<uint64_t>(event.tokens_size());
      for (v1::SampledToken& token : *event.mutable_tokens()) {
        answer.tokens.push_back(std::move(token));
      }
      if (event.finish() != v1::NOT_FINISHED) answer.finish = event.finish();
      return Wish();
    }
    Answer Wish() override {
      if (why_.ok()) why_ = step_->call_.wanted();
      return why_.ok() ? Answer::kGoOn : Answer::kStop;
    }
    bool Paused(absl::AnyInvocable<void()>) override { return false; }
    void Done(absl::Status status) override {
      step_->Decoded(why_.ok() ? std::move(status) : why_);
    }

   private:
    const std::shared_ptr<Step> step_;
    absl::Status why_;
  };

  SessionManager& manager() { return sequences_.manager_; }

  void Remove(SessionManager::StatusDone done) {
    v1::DeleteSessionRequest request;
    request.set_session(call_.session);
    manager().Delete(request, std::move(done));
  }

  void Create() {
    v1::CreateSessionRequest request;
    request.set_session(call_.session);
    request.set_model(call_.model);
    request.set_seed(call_.seed);
    request.set_durability(call_.durability);
    request.set_idle_seconds(sequences_.idle_seconds_);
    manager().Create(request, [self = shared_from_this()](const absl::StatusOr<v1::Session>& made) {
      if (!made.ok()) return self->Answer(made.status());
      self->Feed();
    });
  }

  void Find() {
    v1::GetSessionRequest request;
    request.set_session(call_.session);
    manager().Get(request, [self = shared_from_this()](absl::StatusOr<v1::Session> found) {
      if (absl::IsNotFound(found.status())) {
        found = absl::InvalidArgumentError(
            absl::StrCat("sequence_id: given ", self->call_.session,
                         ", expected a sequence under way: the first call of a sequence sets "
                         "sequence_start (one "
                         "that ended, or was idle for ",
                         self->sequences_.idle_seconds_, " s, starts anew)"));
      }
      if (!found.ok()) return self->Answer(found.status());
      self->began_ = found->position();
      self->answer_.position = found->position();
      self->Feed();
    });
  }

  void Feed() {
    if (call_.tokens.empty() && call_.text.empty()) return Look(call_.expected_position);
    v1::AppendRequest request;
    request.set_session(call_.session);
    if (call_.expected_position) request.set_expected_position(*call_.expected_position);
    request.mutable_tokens()->Assign(call_.tokens.begin(), call_.tokens.end());
    request.set_text(call_.text);
    manager().Append(request, [self = shared_from_this()](absl::StatusOr<v1::AppendResponse> fed) {
      if (!fed.ok()) return self->Fail(fed.status());
      // What was fed by a call before is that call's.
      self->repeated_ = fed->repeated_request();
      self->answer_.position = fed->position();
      self->Look(fed->position());
    });
  }

  void Look(std::optional<uint64_t> position) {
    if (!call_.logits) return Sample(position);
    manager().Logits(
        call_.session, position,
        [self = shared_from_this(), position](absl::StatusOr<std::vector<float>> logits) {
          if (!logits.ok()) return self->Fail(logits.status());
          self->answer_.logits = *std::move(logits);
          self->Sample(position);
        });
  }

  void Sample(std::optional<uint64_t> position) {
    if (call_.max_new_tokens == 0) return Decoded(absl::OkStatus());
    v1::DecodeRequest request;
    request.set_session(call_.session);
    if (position) request.set_expected_position(*position);
    request.set_max_new_tokens(call_.max_new_tokens);
    *request.mutable_sampling() = call_.sampling;
    *request.mutable_stop() = call_.stop;
    manager().Decode(request, std::make_shared<Sink>(shared_from_this()));
  }

  void Decoded(const absl::Status& status) {
    if (!status.ok()) return Fail(status);
    if (!call_.end) return Answer(absl::OkStatus());
    Remove([self = shared_from_this()](absl::Status removed) { self->Answer(std::move(removed)); });
  }

  // After something may have changed: leaves the session as it was before.
  void Fail(const absl::Status& status) {
    auto answer = [self = shared_from_this(), status] { self->Answer(status); };
    if (call_.start) return Remove([answer](const absl::Status&) { answer(); });
    // A position that was not the expected one has changed nothing.
    if (repeated_ || absl::IsFailedPrecondition(status)) return answer();
    v1::RewindRequest request;
    request.set_session(call_.session);
    request.set_position(began_);
    manager().Rewind(request, [answer](const absl::StatusOr<v1::Session>&) { answer(); });
  }

  void Answer(absl::Status status) {
    sequences_.turns_.Leave(call_.session);
    if (!status.ok()) return done_(std::move(status));
    done_(std::move(answer_));
  }

  ModelSequences& sequences_;
  SequenceStepCall call_;
  Done done_;
  uint64_t began_ = 0;  // Where the session stood.
  bool repeated_ = false;
  SequenceStepAnswer answer_;
};

void ModelSequences::Run(SequenceStepCall call, Done done) {
  if (call.session.empty()) {
    call.session = NewSessionId();
    call.start = call.end = true;
    call.durability = v1::NONE;
  }
  auto step = std::make_shared<Step>(*this, std::move(call), std::move(done));
  absl::Status entered = turns_.Enter(step->session(), [step] { step->Run(); });
  if (!entered.ok()) step->Refuse(std::move(entered));
}

}  // namespace attnd
