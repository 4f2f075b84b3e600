// The windows of neighborhood attention on one axis of a grid (Hassani et al., "Neighborhood
// Attention Transformer", 2023; dilation: "Dilated Neighborhood Attention Transformer", 2022;
// stride: "Generalized Neighborhood Attention", 2025). A grid's neighbourhood is the product of its
// axes'.
#ifndef ATTND_KERNELS_CORES_NEIGHBORHOOD_H_
#define ATTND_KERNELS_CORES_NEIGHBORHOOD_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/core/call.h"
#include "kernels/core/tensor.h"
#include "kernels/primitives/primitives.h"

namespace attnd {

struct NeighborhoodAxis {
  int64_t length = 1;
  int64_t window = 1;
  int64_t stride = 1;
  int64_t dilation = 1;
  bool causal = false;

  // A coordinate x belongs to group x % dilation and is member x / dilation there.
  int64_t GroupLength(int64_t group) const {
    return length / dilation + (group < length % dilation ? 1 : 0);
  }

  // The members [begin, end) of its own group that member `member` attends to. Both ends never
  // decrease as the member grows. The window is that of the leader of the member's stride group,
  // moved inward at the borders; on a causal axis it ends with the member.
  struct Range {
    int64_t begin;
    int64_t end;
  };
  Range Neighbours(int64_t group, int64_t member) const;
};

// The axes of a call of neighborhood_attention, outermost first: one, two or three of them. Lists
// of one entry serve all axes.
std::vector<NeighborhoodAxis> NeighborhoodAxes(const BoundCall& call);

// [grid, extra] along the tokens of keys or values, in the backend's memory; the grid itself where
// there is nothing extra. RESOURCE_EXHAUSTED if memory does not suffice.
absl::StatusOr<Tensor> WithExtra(Backend& backend, const Tensor& grid, const Tensor& extra);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_NEIGHBORHOOD_H_
