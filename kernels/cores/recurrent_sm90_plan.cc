#include "kernels/cores/recurrent_sm90_plan.h"

#include <algorithm>

namespace attnd::cuda {
namespace {

// Of the devices that these kernels are for. A number of their own: bits must not depend on how
// many a device has.
constexpr int64_t kTypicalMultiprocessors = 132;
// A shorter unit's sum costs more to hand on than to compute.
constexpr int64_t kFewestUnitChunks = 4;
// Splitting reads keys and values twice.
constexpr double kFewestSpans = 2.5;

template <typename T>
T CeilDiv(T a, T b) {
  return (a + b - 1) / b;
}

}  // namespace

int Sm90UnitChunks(int64_t tokens, int64_t columns) {
  const int64_t units = std::max<int64_t>(1, kTypicalMultiprocessors / columns);
  const int64_t chunks = CeilDiv<int64_t>(tokens, kSm90Chunk);
  return static_cast<int>(std::max(kFewestUnitChunks, CeilDiv(chunks, units)));
}

Sm90Plan PlanSm90(absl::Span<const Sequence> sequences, int64_t columns, int multiprocessors) {
  Sm90Plan plan;
  int64_t tokens = 0;
  for (const Sequence& sequence : sequences) tokens += sequence.length;
  // Tokens of a column that a multiprocessor has to walk if all are busy.
  const double share = std::max(1.0, static_cast<double>(tokens * columns) / multiprocessors);
  for (const Sequence& sequence : sequences) {
    const int unit = Sm90UnitChunks(sequence.length, columns);
    const int64_t unit_tokens = int64_t{unit} * kSm90Chunk;
    const int64_t units = std::max<int64_t>(1, CeilDiv(sequence.length, unit_tokens));
    const double wanted = static_cast<double>(sequence.length) / share;
    const int64_t spans =
        wanted < kFewestSpans ? 1 : std::min<int64_t>(units, static_cast<int64_t>(wanted + 0.1));
    const int64_t units_per_span = CeilDiv(units, spans);
    const auto slot = plan.slots;
    for (int64_t first = 0; first < units; first += units_per_span) {
      const int64_t begin = first * unit_tokens;
      const bool last = first + units_per_span >= units;
      if (!last) plan.summed.push_back(static_cast<int>(plan.spans.size()));
      if (last && first > 0) {
        plan.chains.push_back({slot, static_cast<int>(first), static_cast<int>(sequence.state)});
        plan.slots += static_cast<int>(first) + 1;
        plan.longest_chain = std::max(plan.longest_chain, static_cast<int>(first));
      }
      plan.spans.push_back({
          .row = static_cast<int>(sequence.row),
          .begin = static_cast<int>(sequence.begin + begin),
          .tokens =
              static_cast<int>(std::min(units_per_span * unit_tokens, sequence.length - begin)),
          .state = static_cast<int>(sequence.state),
          .unit = unit,
          .slot = slot + static_cast<int>(first),
          .chain = slot,
          .first = first == 0,
          .last = last,
      });
    }
  }
  return plan;
}

}  // namespace attnd::cuda
