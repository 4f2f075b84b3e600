// One decode while it streams: from sampled tokens to events, and when it is over.
#ifndef ATTND_SERVICE_SESSION_DECODE_RUN_H_
#define ATTND_SERVICE_SESSION_DECODE_RUN_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "attnd/v1/sessions.pb.h"
#include "models/sampler.h"
#include "models/tokenizer.h"
#include "service/session/live_session.h"
#include "service/session/session_manager.h"

namespace attnd {

// Lets text through except what may be the beginning of a stop sequence.
class StopFilter {
 public:
  explicit StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {}
  // Text that is safe to give out; `stopped` if a sequence is complete: text ends before it.
  std::string Add(absl::string_view text, bool* stopped);
  // What was held back.
  std::string Finish();

 private:
  const std::vector<std::string> stops_;
  std::string held_;
};

class SessionManager::DecodeRun {
 public:
  DecodeRun(SessionPtr session, int64_t decode, uint64_t from, std::shared_ptr<DecodeSink> sink);

  const SessionPtr& session() const { return session_; }
  DecodeSink& sink() { return *sink_; }
  const std::shared_ptr<DecodeSink>& shared_sink() const { return sink_; }
  // Events before this position are not wanted.
  uint64_t from() const { return from_; }
  const SessionLog::Decode& decode() const { return session_->log().decode(decode_); }

  // The event of a token of this decode (its index), whether sampled now or before.
  v1::DecodeEvent Token(size_t index);
  // Whether, after Token of its last one, the decode is over, and why.
  v1::FinishReason finish() const { return finish_; }
  // The last event: text held back, the reason.
  v1::DecodeEvent End(v1::FinishReason finish);

  models::SampledToken Sample(absl::Span<const float> logits) const;

  // Events of tokens [0, sent) are out, or before what the client wants.
  size_t sent = 0;
  // When this call began, and when its last token was sampled.
  const absl::Time start = absl::Now();
  std::optional<absl::Time> last_token;
  // Sampled and not handed to the store yet.
  v1::SessionRecord unlogged;

 private:
  const SessionPtr session_;
  const int64_t decode_;
  const uint64_t from_;
  const std::shared_ptr<DecodeSink> sink_;
  const models::SamplingParams params_;
  models::TextStream text_;
  StopFilter stop_;
  v1::FinishReason finish_ = v1::NOT_FINISHED;
  // Of all tokens up to the last event's.
  std::string chain_hash_;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_DECODE_RUN_H_
