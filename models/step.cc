#include "models/step.h"

#include <algorithm>

namespace attnd::models {
namespace {

// Of fewer rows, a product reads a weight more often than it multiplies it.
constexpr int64_t kLeastRows = 8;

std::vector<StepGroup> Cut(const Step& step, int64_t count) {
  std::vector<StepGroup> groups;
  int64_t seen = 0;
  for (size_t i = 0; i < step.segments.size(); ++i) {
    const Segment& segment = step.segments[i];
    // A sequence belongs to the group that its middle row falls into.
    const int64_t own = (2 * seen + segment.count) * count / (2 * step.rows);
    seen += segment.count;
    if (groups.empty() || own >= static_cast<int64_t>(groups.size())) groups.push_back({i, {}});
    StepGroup& group = groups.back();
    group.segments.push_back({segment.state, group.rows, segment.count});
    group.rows += segment.count;
  }
  return groups;
}

}  // namespace

std::vector<StepGroup> Split(const Step& step, int64_t most) {
  const int64_t count = std::min(most, step.rows / kLeastRows);
  if (count < 2) return Cut(step, 1);
  std::vector<StepGroup> groups = Cut(step, count);
  int64_t longest = 0;
  for (const StepGroup& group : groups) longest = std::max(longest, group.rows);
  // A quarter more than a fair share is what the phases' waits for each other would cost.
  if (4 * longest * count > 5 * step.rows) return Cut(step, 1);
  return groups;
}

}  // namespace attnd::models
