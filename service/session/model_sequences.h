// Language models by steps of sequences, as the Open Inference Protocol calls them: a sequence is a
// session. A step feeds tokens, samples behind them, and answers once.
#ifndef ATTND_SERVICE_SESSION_MODEL_SEQUENCES_H_
#define ATTND_SERVICE_SESSION_MODEL_SEQUENCES_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "attnd/v1/sessions.pb.h"
#include "service/session/session_manager.h"
#include "service/session/session_turns.h"

namespace attnd {

struct SequenceStepCall {
  std::string model;
  // The session that the sequence is; empty: one of its own, that ends with the call.
  std::string session;
  bool start = false;  // Begins it anew.
  bool end = false;
  std::optional<uint64_t> expected_position;
  // Fed first; neither: the session samples on from where it stands.
  std::vector<uint32_t> tokens;
  std::string text;
  bool logits = false;          // Of the token behind what was fed.
  uint32_t max_new_tokens = 1;  // 0: none is sampled.
  v1::Sampling sampling;
  v1::Stop stop;
  uint64_t seed = 0;  // Of a session that begins.
  v1::SessionDurability durability = v1::DURABILITY_DEFAULT;
  // Why nobody waits for the answer any more, or OK; asked between the model's steps.
  absl::AnyInvocable<absl::Status()> wanted = [] { return absl::OkStatus(); };
};

struct SequenceStepAnswer {
  uint64_t position = 0;  // Where the session stands now.
  std::vector<v1::SampledToken> tokens;
  std::string text;  // Of these tokens.
  v1::FinishReason finish = v1::NOT_FINISHED;
  std::vector<float> logits;
};

// Safe from many threads.
class ModelSequences {
 public:
  using Done = absl::AnyInvocable<void(absl::StatusOr<SequenceStepAnswer>)>;

  // `manager` must outlive this, and no step may be under way when this ends. A sequence that
  // nobody uses for `idle_seconds` ends by itself.
  ModelSequences(SessionManager& manager, double idle_seconds)
      : manager_(manager), idle_seconds_(idle_seconds) {}

  SessionManager& manager() { return manager_; }
  double idle_seconds() const { return idle_seconds_; }

  // Calls of one session run one after another, in the order in which they came. A call that fails
  // leaves the session as it was. INVALID_ARGUMENT if there is no such session and the call does
  // not start it; other errors as in sessions.proto.
  void Run(SequenceStepCall call, Done done);

 private:
  class Step;

  SessionManager& manager_;
  const double idle_seconds_;
  SessionTurns turns_;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_MODEL_SEQUENCES_H_
