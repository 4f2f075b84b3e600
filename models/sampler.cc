#include "models/sampler.h"

#include <Random123/philox.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"

namespace attnd::models {
namespace {

// In [0, 1), 53 bits.
double Uniform(uint64_t seed, uint64_t position) {
  r123::Philox4x32 philox;
  const auto low = [](uint64_t x) { return static_cast<uint32_t>(x); };
  const auto high = [](uint64_t x) { return static_cast<uint32_t>(x >> 32); };
  const auto bits = philox({{low(position), high(position), 0, 0}}, {{low(seed), high(seed)}});
  const uint64_t whole = uint64_t{bits[0]} << 32 | bits[1];
  return static_cast<double>(whole >> 11) * 0x1p-53;
}

struct Candidate {
  int32_t token;
  float logit;
};

// More probable first, ties to the lowest token.
bool Before(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

// log of the sum of e^logit.
double LogSum(absl::Span<const float> logits) {
  const double most = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - most);
  return most + std::log(sum);
}

std::vector<float> Penalise(absl::Span<const float> logits, absl::Span<const int32_t> history,
                            const SamplingParams& params) {
  std::vector<float> changed(logits.begin(), logits.end());
  if (params.repetition_penalty == 1) return changed;
  const size_t window = params.repetition_window == 0
                            ? history.size()
                            : std::min<size_t>(history.size(), params.repetition_window);
  for (const int32_t token : history.subspan(history.size() - window)) {
    const float logit = logits[static_cast<size_t>(token)];  // Once, however often it came.
    changed[static_cast<size_t>(token)] =
        logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
  }
  return changed;
}

int32_t Draw(std::vector<Candidate> candidates, const SamplingParams& params, double uniform) {
  const size_t kept =
      params.top_k == 0 ? candidates.size() : std::min<size_t>(candidates.size(), params.top_k);
  std::partial_sort(candidates.begin(), candidates.begin() + static_cast<int64_t>(kept),
                    candidates.end(), Before);
  candidates.resize(kept);
  std::vector<double> weights;
  weights.reserve(kept);
  for (const Candidate& c : candidates) {
    weights.push_back(std::exp((double{c.logit} - candidates[0].logit) / params.temperature));
  }
  size_t end = kept;
  while (end > 1 && weights[end - 1] < params.min_p) --end;
  double total = std::accumulate(weights.begin(), weights.begin() + static_cast<int64_t>(end), 0.0);
  if (params.top_p < 1) {
    double reached = 0;
    size_t i = 0;
    while (i < end && reached < params.top_p * total) reached += weights[i++];
    end = std::max<size_t>(i, 1);
    total = std::accumulate(weights.begin(), weights.begin() + static_cast<int64_t>(end), 0.0);
  }
  double left = uniform * total;
  for (size_t i = 0; i + 1 < end; ++i) {
    left -= weights[i];
    if (left < 0) return candidates[i].token;
  }
  return candidates[end - 1].token;
}

}  // namespace

absl::Status SamplingParams::Check() const {
  const auto bad = [](absl::string_view name, double given, absl::string_view expected) {
    return absl::InvalidArgumentError(
        absl::StrCat("sampling: ", name, ": given ", given, ", expected ", expected));
  };
  // Written so that NaN fails.
  if (!(temperature >= 0 && temperature <= 100)) return bad("temperature", temperature, "0 to 100");
  if (!(top_p > 0 && top_p <= 1)) return bad("top_p", top_p, "above 0, at most 1");
  if (!(min_p >= 0 && min_p <= 1)) return bad("min_p", min_p, "0 to 1");
  if (!(repetition_penalty > 0 && repetition_penalty <= 100)) {
    return bad("repetition_penalty", repetition_penalty, "above 0, at most 100");
  }
  if (top_logprobs > 64) return bad("top_logprobs", top_logprobs, "at most 64");
  return absl::OkStatus();
}

SampledToken Score(absl::Span<const float> logits, int32_t token, uint32_t top) {
  const double sum = LogSum(logits);
  SampledToken scored;
  scored.token = token;
  scored.logprob = static_cast<float>(logits[static_cast<size_t>(token)] - sum);
  if (top == 0) return scored;
  std::vector<Candidate> candidates;
  for (size_t i = 0; i < logits.size(); ++i) {
    candidates.push_back({static_cast<int32_t>(i), logits[i]});
  }
  const size_t kept = std::min<size_t>(top, candidates.size());
  std::partial_sort(candidates.begin(), candidates.begin() + static_cast<int64_t>(kept),
                    candidates.end(), Before);
  for (size_t i = 0; i < kept; ++i) {
    scored.top.push_back({candidates[i].token, static_cast<float>(candidates[i].logit - sum)});
  }
  return scored;
}

SampledToken Sample(absl::Span<const float> logits, absl::Span<const int32_t> history,
                    const SamplingParams& params, uint64_t seed, uint64_t position) {
  const std::vector<float> changed = Penalise(logits, history, params);
  std::vector<Candidate> candidates;
  candidates.reserve(changed.size());
  for (size_t i = 0; i < changed.size(); ++i) {
    // NaN compares with nothing: it must not be drawn, nor spoil the order.
    if (!std::isnan(changed[i])) candidates.push_back({static_cast<int32_t>(i), changed[i]});
  }
  int32_t token = 0;
  if (!candidates.empty()) {
    token = params.temperature == 0
                ? std::min_element(candidates.begin(), candidates.end(), Before)->token
                : Draw(std::move(candidates), params, Uniform(seed, position));
  }
  return Score(logits, token, params.top_logprobs);
}

}  // namespace attnd::models
