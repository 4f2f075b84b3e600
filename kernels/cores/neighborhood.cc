#include "kernels/cores/neighborhood.h"

#include <algorithm>
#include <utility>

namespace attnd {

NeighborhoodAxis::Range NeighborhoodAxis::Neighbours(int64_t group, int64_t member) const {
  const int64_t size = GroupLength(group);
  const int64_t first = member / stride * stride;  // Of the stride group.
  if (causal) {
    const int64_t leader = std::min(first + stride - 1, size - 1);
    return {std::max<int64_t>(leader - window + 1, 0), std::min(member + 1, size)};
  }
  const int64_t leader = std::min(first + stride / 2, size - 1);
  // An even window has one more on the left.
  const int64_t before = window / 2;
  const int64_t after = (window - 1) / 2;
  const int64_t begin =
      std::max<int64_t>(leader - before, 0) + std::min<int64_t>(size - 1 - after - leader, 0);
  return {begin, begin + window};
}

std::vector<NeighborhoodAxis> NeighborhoodAxes(const BoundCall& call) {
  std::vector<int64_t> lengths;
  for (const char* name : {"depth", "height", "width"}) {
    if (call.has_attribute(name)) lengths.push_back(call.integer(name));
  }
  if (lengths.empty()) lengths.push_back(call.dim("N"));
  std::vector<NeighborhoodAxis> axes;
  for (size_t i = 0; i < lengths.size(); ++i) {
    axes.push_back({.length = lengths[i],
                    .window = call.integers("window")[i],
                    .stride = call.integers("stride")[i],
                    .dilation = call.integers("dilation")[i],
                    .causal = call.flags("causal")[i]});
  }
  return axes;
}

absl::StatusOr<Tensor> WithExtra(Backend& backend, const Tensor& grid, const Tensor& extra) {
  if (!extra.defined()) return grid;
  Dims shape = grid.shape();
  shape[1] += extra.dim(1);
  absl::StatusOr<Tensor> both = backend.Allocate(grid.dtype(), std::move(shape));
  if (!both.ok()) return both;
  backend.Copy(grid, both->Slice(1, 0, grid.dim(1)));
  backend.Copy(extra, both->Slice(1, grid.dim(1), extra.dim(1)));
  return both;
}

}  // namespace attnd
