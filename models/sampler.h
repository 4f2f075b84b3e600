// From logits to a token.
#ifndef ATTND_MODELS_SAMPLER_H_
#define ATTND_MODELS_SAMPLER_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace attnd::models {

struct SamplingParams {
  float temperature = 0;  // 0: the most probable token.
  uint32_t top_k = 0;     // 0: all.
  float top_p = 1;        // Keeps the fewest tokens whose probabilities reach it.
  float min_p = 0;        // Keeps tokens at least this probable beside the most probable one.
  // Divides positive and multiplies negative logits of the tokens of the last `repetition_window`
  // positions (0: all).
  float repetition_penalty = 1;
  uint32_t repetition_window = 0;
  uint32_t top_logprobs = 0;

  // INVALID_ARGUMENT naming the parameter, what was given and what is expected.
  absl::Status Check() const;
};

struct TokenLogprob {
  int32_t token;
  float logprob;
};

struct SampledToken {
  int32_t token = 0;
  float logprob = 0;  // Under the model's own distribution, before penalty, temperature and cuts.
  std::vector<TokenLogprob> top;  // The most probable tokens of that distribution.
};

// The token for `position` of a session with that seed. A pure function: random numbers come from a
// counter-based generator (Philox 4x32-10; Salmon et al., "Parallel Random Numbers: As Easy as 1,
// 2, 3", 2011) of seed and position, and ties go to the lowest token. `history` holds the session's
// tokens before `position`.
SampledToken Sample(absl::Span<const float> logits, absl::Span<const int32_t> history,
                    const SamplingParams& params, uint64_t seed, uint64_t position);

// log softmax(logits)[token], and the `top` most probable tokens.
SampledToken Score(absl::Span<const float> logits, int32_t token, uint32_t top);

}  // namespace attnd::models

#endif  // ATTND_MODELS_SAMPLER_H_
