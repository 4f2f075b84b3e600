#include "kernels/cores/block_choice.h"

#include <algorithm>
#include <limits>

namespace attnd {

Array Largest(const Array& scores, const Array& allowed, int64_t count) {
  if (!scores.defined()) return {};
  Composer& c = *scores.composer();
  Array ranked = scores;
  if (allowed.defined()) {
    // Whatever is granted comes before what is not.
    const double lowest = c.compute_type() == DType::kFloat64
                              ? std::numeric_limits<double>::lowest()
                              : std::numeric_limits<float>::lowest();
    const Array least = c.Scalar(lowest);
    ranked = Where(allowed, Where(least < scores, scores, least),
                   -std::numeric_limits<double>::infinity());
  }
  const Array number = c.Cast(c.Scalar(static_cast<double>(count)), DType::kInt64);
  const Array chosen = Ranks(ranked) < number;
  return allowed.defined() ? chosen && allowed : chosen;
}

Array LargestIndices(const Array& scores, int64_t count) {
  if (!scores.defined()) return {};
  return SortDescending(scores).Slice(-1, 0, std::min(count, scores.dim(-1)));
}

}  // namespace attnd
