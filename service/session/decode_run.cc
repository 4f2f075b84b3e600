#include "service/session/decode_run.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "service/session/fault_point.h"
#include "service/session/requests.h"

namespace attnd {
namespace {

// Tokens that go to the store in one record; what a crash loses of it is sampled again.
constexpr int kLogged = 32;

v1::SampledToken ToWire(const models::SampledToken& sampled) {
  v1::SampledToken out;
  out.set_token(static_cast<uint32_t>(sampled.token));
  out.set_logprob(sampled.logprob);
  for (const models::TokenLogprob& top : sampled.top) {
    v1::TokenLogprob* entry = out.add_top();
    entry->set_token(static_cast<uint32_t>(top.token));
    entry->set_logprob(top.logprob);
  }
  return out;
}

}  // namespace

std::string StopFilter::Add(absl::string_view text, bool* stopped) {
  held_.append(text.data(), text.size());
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, held_.find(stop));
  *stopped = first != std::string::npos;
  size_t safe = *stopped ? first : held_.size();
  if (!*stopped) {
    for (const std::string& stop : stops_) {
      for (size_t n = std::min(stop.size() - 1, held_.size()); n > 0; --n) {
        if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) {
          safe = std::min(safe, held_.size() - n);
          break;
        }
      }
    }
  }
  std::string out = held_.substr(0, safe);
  held_.erase(0, *stopped ? held_.size() : safe);
  return out;
}

std::string StopFilter::Finish() { return std::exchange(held_, ""); }

SessionManager::DecodeRun::DecodeRun(SessionPtr session, int64_t decode, uint64_t from,
                                     std::shared_ptr<DecodeSink> sink)
    : session_(std::move(session)),
      decode_(decode),
      from_(from),
      sink_(std::move(sink)),
      params_(ParamsOf(session_->log().decode(decode).request.sampling())),
      stop_({session_->log().decode(decode).request.stop().sequences().begin(),
             session_->log().decode(decode).request.stop().sequences().end()}) {
  chain_hash_ = session_->log().decode(decode).begin_hash;
}

models::SampledToken SessionManager::DecodeRun::Sample(absl::Span<const float> logits) const {
  const SessionLog& log = session_->log();
  return models::Sample(logits, log.tokens(), params_, log.created().seed(), log.position());
}

v1::DecodeEvent SessionManager::DecodeRun::Token(size_t index) {
  const v1::SessionRecord::DecodeBegun& request = decode().request;
  const v1::SampledToken& sampled = decode().tokens[index];
  v1::DecodeEvent event;
  event.set_position(decode().begin + index);
  v1::SampledToken& out = *event.add_tokens();
  out.set_token(sampled.token());
  if (request.sampling().logprobs() || request.sampling().top_logprobs() > 0) out = sampled;
  const auto token = static_cast<int32_t>(sampled.token());
  bool stopped = false;
  event.set_text(stop_.Add(text_.Add(session_->model->tokenizer->Bytes(token)), &stopped));
  const auto& stops = request.stop().tokens();
  if (stopped) {
    finish_ = v1::STOP_SEQUENCE;
  } else if (std::find(stops.begin(), stops.end(), sampled.token()) != stops.end() ||
             (!request.stop().ignore_eos() &&
              token == session_->model->model->config().eos_token)) {
    finish_ = v1::STOP_TOKEN;
  } else if (index + 1 >= request.max_new_tokens()) {
    finish_ = v1::LENGTH;
  }
  chain_hash_ = SessionLog::Chain(chain_hash_, token);
  event.set_chain_hash(chain_hash_);
  return event;
}

v1::DecodeEvent SessionManager::DecodeRun::End(v1::FinishReason finish) {
  v1::DecodeEvent event;
  event.set_position(decode().end);
  if (finish != v1::STOP_SEQUENCE) {
    bool stopped = false;
    event.set_text(stop_.Add(text_.Finish(), &stopped) + stop_.Finish());
  }
  event.set_finish(finish);
  event.set_durable_position(session_->Describe().durable_position());
  return event;
}

// ---- The manager's part.

void SessionManager::Decode(v1::DecodeRequest request, std::shared_ptr<DecodeSink> sink) {
  const std::string id = request.session();
  Enter(id, [this, request = std::move(request),
             sink = std::move(sink)](absl::StatusOr<SessionPtr> found) mutable {
    if (!found.ok()) return sink->Done(found.status());
    const SessionPtr session = *std::move(found);
    const auto refuse = [session, sink](absl::Status status) {
      session->Leave();
      sink->Done(std::move(status));
    };
    if (session->op != nullptr)
      return refuse(NoLanguageModel(session->id(), session->op->spec.id()));
    if (absl::Status s = CheckDecode(request, session->model->model->config().vocab_size);
        !s.ok()) {
      return refuse(s);
    }
    FaultPoint("decode.begin");
    Mutation mutation = MutationOf(request);
    const absl::StatusOr<const SessionLog::Request*> repeated = FindRepeated(*session, mutation);
    if (!repeated.ok()) return refuse(repeated.status());
    const uint64_t from = request.has_from_position() ? request.from_position() : 0;
    if (*repeated != nullptr && (*repeated)->decode >= 0) {
      const bool over = session->log().decode((*repeated)->decode).finish.has_value();
      (over ? metrics_.resumed_complete : metrics_.resumed_open).Increment();
      return RunDecode(std::make_shared<DecodeRun>(session, (*repeated)->decode, from, sink));
    }
    if (request.has_from_position()) {
      return refuse(absl::FailedPreconditionError(absl::StrCat(
          "session ", session->id(), ": from_position: given ", from, ", no such decode began")));
    }
    Settle(session, mutation.expected,
           [this, session, sink, refuse, mutation,
            request = std::move(request)](const absl::Status& status) mutable {
             if (!status.ok()) return refuse(status);
             if (session->log().position() == 0) {
               return refuse(HoldsNothing(session->id()));
             }
             v1::SessionRecord record;
             v1::SessionRecord::DecodeBegun& begun = *record.mutable_decode_begun();
             begun.set_position(session->log().position());
             begun.set_max_new_tokens(request.max_new_tokens());
             *begun.mutable_sampling() = request.sampling();
             *begun.mutable_stop() = request.stop();
             Record(session, mutation, std::move(record),
                    [this, session, sink, refuse](const absl::Status& recorded) {
                      if (!recorded.ok()) return refuse(recorded);
                      FaultPoint("decode.recorded");
                      RunDecode(std::make_shared<DecodeRun>(session, session->log().last_decode(),
                                                            0, sink));
                    });
           });
  });
}

void SessionManager::RunDecode(const std::shared_ptr<DecodeRun>& run) {
  DecodeSink::Answer answer = run->sink().Wish();
  if (answer == DecodeSink::Answer::kGoOn) answer = SendKnown(run);
  switch (answer) {
    case DecodeSink::Answer::kGoOn:
      break;
    case DecodeSink::Answer::kPause:
      return;
    case DecodeSink::Answer::kStop:
      return EndDecode(run, absl::CancelledError("the client went away"));
    case DecodeSink::Answer::kCancel:
      return CancelDecode(run);
  }
  if (run->decode().finish.has_value() || run->finish() != v1::NOT_FINISHED) {
    return EndDecode(run, absl::OkStatus());
  }
  const SessionPtr& session = run->session();
  // All but the last token first, so that the step that follows is one token like any other's.
  const auto read = [this, run](const absl::Status& status) {
    if (run->sink().Wish() == DecodeSink::Answer::kCancel) return CancelDecode(run);
    if (!status.ok()) return EndDecode(run, status);
    FaultPoint("decode.caught_up");
    ModelRunner::Task task;
    task.state = &*run->session()->state;
    task.tokens = {run->session()->log().tokens().back()};
    task.next = [this, run](absl::Status step, absl::Span<const float> logits) {
      return AfterStep(run, std::move(step), logits);
    };
    if (absl::Status s = run->session()->model->runner->Start(std::move(task)); !s.ok()) {
      EndDecode(run, s);
    }
  };
  CatchUp(session, MostRead(*session), read, run->shared_sink());
}

// Events of what was sampled and not sent.
DecodeSink::Answer SessionManager::SendKnown(const std::shared_ptr<DecodeRun>& run) {
  while (run->sent < run->decode().tokens.size()) {
    v1::DecodeEvent event = run->Token(run->sent++);
    if (event.position() < run->from()) continue;
    FaultPoint("decode.send.before");
    switch (run->sink().Event(std::move(event))) {
      case DecodeSink::Answer::kGoOn:
        FaultPoint("decode.send.after");
        break;
      case DecodeSink::Answer::kPause:
        if (run->sink().Paused([this, run] { RunDecode(run); })) return DecodeSink::Answer::kPause;
        break;
      case DecodeSink::Answer::kStop:
        return DecodeSink::Answer::kStop;
      case DecodeSink::Answer::kCancel:
        return DecodeSink::Answer::kCancel;
    }
  }
  return DecodeSink::Answer::kGoOn;
}

std::vector<int32_t> SessionManager::AfterStep(const std::shared_ptr<DecodeRun>& run,
                                               absl::Status status,
                                               absl::Span<const float> logits) {
  LiveSession& session = *run->session();
  if (!status.ok()) {
    EndDecode(run, std::move(status));
    return {};
  }
  FaultPoint("decode.stepped");
  AfterPiece(run->session());
  v1::SessionRecord record;
  record.mutable_sampled()->set_position(session.log().position());
  *record.mutable_sampled()->add_tokens() = ToWire(run->Sample(logits));
  if (absl::Status s = session.Apply(record); !s.ok()) {
    EndDecode(run, std::move(s));
    return {};
  }
  FaultPoint("decode.sampled");
  metrics_.generated.Increment();
  const absl::Time now = absl::Now();
  (run->last_token.has_value() ? metrics_.inter_token : metrics_.first_token)
      .Observe(absl::ToDoubleSeconds(now - run->last_token.value_or(run->start)));
  run->last_token = now;
  if (!run->unlogged.has_sampled()) {
    run->unlogged = record;
  } else {
    run->unlogged.mutable_sampled()->add_tokens()->Swap(
        record.mutable_sampled()->mutable_tokens(0));
  }
  if (run->unlogged.sampled().tokens_size() >= kLogged) LogSampled(run);
  FaultPoint("decode.logged");
  DecodeSink::Answer answer = SendKnown(run);
  if (answer == DecodeSink::Answer::kGoOn && run->finish() == v1::NOT_FINISHED) {
    answer = run->sink().Wish();
  }
  switch (answer) {
    case DecodeSink::Answer::kGoOn:
      break;
    case DecodeSink::Answer::kPause:
      return {};
    case DecodeSink::Answer::kStop:
      EndDecode(run, absl::CancelledError("the client went away"));
      return {};
    case DecodeSink::Answer::kCancel:
      CancelDecode(run);
      return {};
  }
  if (run->finish() == v1::NOT_FINISHED) return {session.log().tokens().back()};
  EndDecode(run, absl::OkStatus());
  return {};
}

void SessionManager::LogSampled(const std::shared_ptr<DecodeRun>& run) {
  if (run->unlogged.has_sampled()) RecordLater(run->session(), run->unlogged);
  run->unlogged.Clear();
}

// The session holds what was sampled, so the client gets it, whether it takes more or not.
void SessionManager::CancelDecode(const std::shared_ptr<DecodeRun>& run) {
  while (run->sent < run->decode().tokens.size()) {
    v1::DecodeEvent event = run->Token(run->sent++);
    if (event.position() >= run->from()) (void)run->sink().Event(std::move(event));
  }
  EndDecode(run, absl::OkStatus(),
            run->finish() == v1::NOT_FINISHED ? v1::CANCELLED_BY_CLIENT : run->finish());
}

void SessionManager::EndDecode(const std::shared_ptr<DecodeRun>& run, absl::Status status,
                               v1::FinishReason finish) {
  const SessionPtr session = run->session();
  FaultPoint("decode.end.before");
  LogSampled(run);
  auto leave = [this, run, session](absl::Status over) {
    if (over.ok()) {
      (void)run->sink().Event(run->End(*run->decode().finish));
      FaultPoint("decode.end.sent");
    }
    session->NoteStateBytes();
    if (session->transient) {
      absl::MutexLock lock(&mu_);
      transients_.erase(session);
    }
    session->Leave();
    run->sink().Done(std::move(over));
    FaultPoint("decode.done");
  };
  if (!status.ok() || run->decode().finish.has_value()) return leave(std::move(status));
  v1::SessionRecord record;
  record.mutable_decode_ended()->set_position(session->log().position());
  record.mutable_decode_ended()->set_finish(finish == v1::NOT_FINISHED ? run->finish() : finish);
  // Whoever hears that it is over relies on all of it, and goes on from its end.
  Record(session, Mutation(), std::move(record),
         [leave = std::move(leave)](absl::Status recorded) mutable {
           FaultPoint("decode.end.recorded");
           leave(std::move(recorded));
         });
}

}  // namespace attnd
