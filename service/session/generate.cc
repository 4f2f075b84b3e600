// What is asked of a model without a session that stays: Generate and Score.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/session/decode_run.h"
#include "service/session/requests.h"
#include "service/session/session_manager.h"

namespace attnd {
namespace {

// Tokens of one piece of a text that is scored: bounds the logits in memory.
constexpr size_t kPiece = 256;
// Of an answer, the most probable ones at each place included.
constexpr size_t kMostScores = 1 << 20;

// Reads a text piece by piece. Lives as long as the task that holds it.
class ScoreRun : public std::enable_shared_from_this<ScoreRun> {
 public:
  using Done = absl::AnyInvocable<void(absl::StatusOr<v1::ScoreResponse>)>;

  ScoreRun(std::shared_ptr<const LoadedModel> model, models::SequenceState state,
           std::vector<int32_t> tokens, size_t context, uint32_t top,
           absl::AnyInvocable<bool()> gone, Done done)
      : model_(std::move(model)),
        state_(std::move(state)),
        tokens_(std::move(tokens)),
        context_(context),
        top_(top),
        gone_(std::move(gone)),
        done_(std::move(done)) {}

  void Start() {
    // Logits behind a token are of the next one: none are wanted before the last of the context.
    const size_t silent = context_ == 0 ? 0 : context_ - 1;
    if (context_ == 0) Add(tokens_[0], {});
    Read(silent == 0 ? tokens_.size() - 1 : silent, silent == 0);
  }

 private:
  void Read(size_t end, bool scored) {
    ModelRunner::Task task;
    task.state = &state_;
    task.tokens = Piece(end);
    if (task.tokens.empty()) return Finish(absl::OkStatus());
    task.logits_of_all = scored;
    task.next = [self = shared_from_this(), end, scored](absl::Status status,
                                                         absl::Span<const float> logits) {
      return self->After(std::move(status), logits, end, scored);
    };
    if (absl::Status s = model_->runner->Start(std::move(task)); !s.ok()) Finish(s);
  }

  std::vector<int32_t> Piece(size_t end) const {
    const size_t to = std::min(end, read_ + kPiece);
    return {tokens_.begin() + static_cast<int64_t>(read_),
            tokens_.begin() + static_cast<int64_t>(to)};
  }

  std::vector<int32_t> After(absl::Status status, absl::Span<const float> logits, size_t end,
                             bool scored) {
    if (status.ok() && gone_()) status = absl::CancelledError("the client went away");
    if (!status.ok()) {
      Finish(std::move(status));
      return {};
    }
    const auto vocab = static_cast<size_t>(model_->model->config().vocab_size);
    const size_t begin = std::exchange(read_, static_cast<size_t>(state_.position()));
    for (size_t i = begin; scored && i < read_; ++i) {
      Add(tokens_[i + 1], logits.subspan((i - begin) * vocab, vocab));
    }
    std::vector<int32_t> more = Piece(end);
    if (!more.empty()) return more;
    if (scored) {
      Finish(absl::OkStatus());
    } else {
      Read(tokens_.size() - 1, true);
    }
    return {};
  }

  // Without logits: nothing is before the token.
  void Add(int32_t token, absl::Span<const float> logits) {
    v1::ScoredToken& out = *response_.add_tokens();
    out.set_token(static_cast<uint32_t>(token));
    if (logits.empty()) return;
    const models::SampledToken scored = models::Score(logits, token, top_);
    out.set_logprob(scored.logprob);
    total_ += scored.logprob;
    for (const models::TokenLogprob& top : scored.top) {
      v1::TokenLogprob& entry = *out.add_top();
      entry.set_token(static_cast<uint32_t>(top.token));
      entry.set_logprob(top.logprob);
    }
    response_.set_scored(response_.scored() + 1);
  }

  void Finish(absl::Status status) {
    if (!status.ok()) return done_(std::move(status));
    response_.set_total_logprob(total_);
    response_.set_perplexity(std::exp(-total_ / static_cast<double>(response_.scored())));
    done_(std::move(response_));
  }

  const std::shared_ptr<const LoadedModel> model_;
  models::SequenceState state_;
  const std::vector<int32_t> tokens_;  // The context first.
  const size_t context_;
  const uint32_t top_;
  absl::AnyInvocable<bool()> gone_;
  Done done_;
  size_t read_ = 0;
  double total_ = 0;
  v1::ScoreResponse response_;
};

absl::Status Bad(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("score: ", what));
}

}  // namespace

void SessionManager::Generate(v1::GenerateRequest request, std::shared_ptr<DecodeSink> sink) {
  writer_.Run([this, request = std::move(request), sink = std::move(sink)]() mutable {
    const absl::StatusOr<std::shared_ptr<const LoadedModel>> model = models_.Load(request.model());
    if (!model.ok()) return sink->Done(model.status());
    v1::DecodeRequest decode;
    decode.set_max_new_tokens(request.max_new_tokens());
    *decode.mutable_sampling() = request.sampling();
    *decode.mutable_stop() = request.stop();
    if (absl::Status s = CheckDecode(decode, (*model)->model->config().vocab_size); !s.ok()) {
      return sink->Done(s);
    }
    const absl::StatusOr<std::vector<int32_t>> tokens =
        TokensOf(**model, request.tokens(), request.text());
    if (!tokens.ok()) return sink->Done(tokens.status());
    if (tokens->size() > limits_.max_tokens) {
      return sink->Done(absl::ResourceExhaustedError(absl::StrCat(
          "tokens: given ", tokens->size(), ", expected at most ", limits_.max_tokens)));
    }
    auto session = std::make_shared<LiveSession>(NewSessionId());
    session->model = *model;
    session->durability = Durability::kNone;
    session->transient = true;
    v1::SessionRecord created, begun;
    created.mutable_created()->set_model(request.model());
    created.mutable_created()->set_seed(request.seed());
    created.mutable_created()->mutable_tokens()->Assign(tokens->begin(), tokens->end());
    begun.mutable_decode_begun()->set_position(tokens->size());
    begun.mutable_decode_begun()->set_max_new_tokens(decode.max_new_tokens());
    *begun.mutable_decode_begun()->mutable_sampling() = decode.sampling();
    *begun.mutable_decode_begun()->mutable_stop() = decode.stop();
    absl::Status status = session->Apply(created);
    if (status.ok()) status = session->Apply(begun);
    if (status.ok()) {
      absl::MutexLock lock(&mu_);
      if (transients_.size() >= limits_.max_generations) {
        status = absl::ResourceExhaustedError(
            absl::StrCat("generate: ", limits_.max_generations,
                         " calls are under way, the limit: repeat the call later"));
      } else {
        transients_.insert(session);
      }
    }
    if (!status.ok()) return sink->Done(status);
    // In a turn, which the end of the decode gives back.
    (void)session->Enter(0, [this, session, sink] {
      RunDecode(std::make_shared<DecodeRun>(session, session->log().last_decode(), 0, sink));
    });
  });
}

void SessionManager::Logits(const std::string& id, std::optional<uint64_t> at,
                            absl::AnyInvocable<void(absl::StatusOr<std::vector<float>>)> done) {
  Enter(id, [this, at, done = std::move(done)](absl::StatusOr<SessionPtr> found) mutable {
    if (!found.ok()) return done(found.status());
    const SessionPtr session = *std::move(found);
    auto answer = [session,
                   done = std::move(done)](absl::StatusOr<std::vector<float>> out) mutable {
      session->Leave();
      done(std::move(out));
    };
    if (session->op != nullptr)
      return answer(NoLanguageModel(session->id(), session->op->spec.id()));
    const uint64_t position = at.value_or(session->log().position());
    if (position == 0) return answer(HoldsNothing(session->id()));
    if (position > session->log().position()) {
      return answer(absl::OutOfRangeError(
          absl::StrCat("session ", session->id(), ": logits: given position ", position,
                       ", the session stands at ", session->log().position())));
    }
    CatchUp(
        session, position - 1,
        [session, position, answer = std::move(answer)](const absl::Status& read) mutable {
          if (!read.ok()) return answer(read);
          // Of a copy, since the session's own state has still to read this token.
          absl::StatusOr<models::SequenceState> copy = session->state->Copy();
          if (!copy.ok()) return answer(copy.status());
          struct Reading {
            models::SequenceState state;
            absl::AnyInvocable<void(absl::StatusOr<std::vector<float>>)> tell;
          };
          auto reading = std::make_shared<Reading>(Reading{*std::move(copy), std::move(answer)});
          ModelRunner::Task task;
          task.state = &reading->state;
          task.tokens = {session->log().tokens()[position - 1]};
          task.next = [reading](const absl::Status& status, absl::Span<const float> logits) {
            if (!status.ok()) {
              reading->tell(status);
            } else {
              reading->tell(std::vector<float>(logits.begin(), logits.end()));
            }
            return std::vector<int32_t>();
          };
          if (absl::Status s = session->model->runner->Start(std::move(task)); !s.ok()) {
            reading->tell(s);
          }
        });
  });
}

void SessionManager::Score(v1::ScoreRequest request, absl::AnyInvocable<bool()> gone,
                           absl::AnyInvocable<void(absl::StatusOr<v1::ScoreResponse>)> done) {
  writer_.Run([this, request = std::move(request), gone = std::move(gone),
               done = std::move(done)]() mutable {
    const absl::StatusOr<std::shared_ptr<const LoadedModel>> model = models_.Load(request.model());
    if (!model.ok()) return done(model.status());
    std::vector<int32_t> tokens;
    if (!request.context_tokens().empty() || !request.context_text().empty()) {
      absl::StatusOr<std::vector<int32_t>> context =
          TokensOf(**model, request.context_tokens(), request.context_text());
      if (!context.ok()) return done(context.status());
      tokens = *std::move(context);
    }
    const size_t context = tokens.size();
    const absl::StatusOr<std::vector<int32_t>> scored =
        TokensOf(**model, request.tokens(), request.text());
    if (!scored.ok()) return done(scored.status());
    tokens.insert(tokens.end(), scored->begin(), scored->end());
    if (tokens.size() < 2) {
      return done(
          Bad("tokens: given one and no context, expected a token with something before it"));
    }
    if (request.top_logprobs() > 64) {
      return done(Bad(
          absl::StrCat("top_logprobs: given ", request.top_logprobs(), ", expected at most 64")));
    }
    if (tokens.size() > limits_.max_tokens ||
        scored->size() * (1 + request.top_logprobs()) > kMostScores) {
      return done(absl::ResourceExhaustedError(
          absl::StrCat("score: tokens: given ", tokens.size(), " with ", request.top_logprobs(),
                       " top_logprobs each, expected at most ",
                       std::min<uint64_t>(limits_.max_tokens, kMostScores), " values in all")));
    }
    absl::StatusOr<models::SequenceState> state = (*model)->model->NewState();
    if (!state.ok()) return done(state.status());
    {
      absl::MutexLock lock(&mu_);
      ++scoring_[model->get()];
    }
    auto over = [this, model = model->get(),
                 done = std::move(done)](absl::StatusOr<v1::ScoreResponse> response) mutable {
      {
        absl::MutexLock lock(&mu_);
        --scoring_[model];
      }
      done(std::move(response));
    };
    std::make_shared<ScoreRun>(*model, *std::move(state), std::move(tokens), context,
                               request.top_logprobs(), std::move(gone), std::move(over))
        ->Start();
  });
}

}  // namespace attnd
