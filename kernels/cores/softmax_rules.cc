#include <algorithm>
#include <limits>
#include <utility>

#include "kernels/cores/softmax.h"

namespace attnd::cpu {

int64_t SoftmaxRule::TileLength(const SoftmaxPlace& /*place*/, int64_t /*begin*/) const {
  return kMaxQueries;
}

// Windows may be as long as an int64 is; no sequence is, and positions may be added to half of it.
WindowRule::WindowRule(Options options) : options_(std::move(options)) {
  constexpr int64_t kLongest = std::numeric_limits<int64_t>::max() / 2;
  options_.left = std::min(options_.left, kLongest);
  options_.right = std::min(options_.right, kLongest);
}

WindowRule::Range WindowRule::Allowed(const SoftmaxPlace& place, int64_t query) const {
  const int64_t position = query + place.keys - place.queries;
  Range range{0, place.keys};
  if (!options_.missing_keys.empty()) {
    range.begin = options_.missing_keys[static_cast<size_t>(place.sequence)];
  }
  if (options_.left >= 0) range.begin = std::max(range.begin, position - options_.left);
  if (options_.causal) {
    range.end = std::min(range.end, position + 1);
  } else if (options_.right >= 0) {
    range.end = std::min(range.end, position + options_.right + 1);
  }
  range.end = std::max(range.end, range.begin);
  return range;
}

void WindowRule::ForEachRun(const SoftmaxPlace& place, int64_t begin, int64_t count,
                            absl::FunctionRef<void(const KeyRun&)> visit) const {
  // Both ends grow with the query: the common keys lie between the last query's begin and the
  // first's end.
  const Range first = Allowed(place, begin);
  const Range last = Allowed(place, begin + count - 1);
  const int64_t from = first.begin;
  const int64_t to = last.end;
  const int64_t common_from = std::clamp(last.begin, from, to);
  const int64_t common_to = std::clamp(first.end, common_from, to);
  const bool full = !options_.pairs.defined();
  for (const KeyRun& run :
       {KeyRun{from, common_from - from, false}, KeyRun{common_from, common_to - common_from, full},
        KeyRun{common_to, to - common_to, false}}) {
    if (run.length > 0) visit(run);
  }
}

void WindowRule::Mask(const SoftmaxPlace& place, int64_t query, int64_t key, int64_t count,
                      float* scores) const {
  constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
  const Range allowed = Allowed(place, query);
  const int64_t from = std::clamp<int64_t>(allowed.begin - key, 0, count);
  const int64_t to = std::clamp<int64_t>(allowed.end - key, from, count);
  std::fill(scores, scores + from, kMinusInfinity);
  std::fill(scores + to, scores + count, kMinusInfinity);
  if (!options_.pairs.defined()) return;
  const int64_t rows = options_.pairs.rank() == 3 ? place.row * place.queries + query : query;
  const bool* pairs = options_.pairs.data<bool>() + rows * place.keys + key;
  for (int64_t j = from; j < to; ++j) {
    if (!pairs[j]) scores[j] = kMinusInfinity;
  }
}

}  // namespace attnd::cpu
