// Lists of key blocks, one for each block of queries: what block-sparse attention reads.
#ifndef ATTND_KERNELS_CORES_BLOCK_LISTS_H_
#define ATTND_KERNELS_CORES_BLOCK_LISTS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/core/call.h"
#include "kernels/core/tensor.h"

namespace attnd {

// Key blocks that the lists of a call need: those of its longest sequence (packed), or of S keys.
int64_t KeyBlocks(const BoundCall& call);

// The lists of a call as bool [BM,HB,MB,KeyBlocks]: block_mask itself, or block_indices and
// block_counts spread out. Host tensors, canonical and accepted by CheckBlockLists. Blocks beyond a
// sequence's own may be listed; they hold no keys.
absl::StatusOr<Tensor> ListedBlocks(const BoundCall& call, const Tensor& indices,
                                    const Tensor& counts, const Tensor& mask);

// INVALID_ARGUMENT where the grid does not fit the sequences, an entry is not a key block of its
// sequence, is listed twice, or is negative within its count, or a count is not in [0, NK].
absl::Status CheckBlockLists(const BoundCall& call);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_BLOCK_LISTS_H_
