// The linear recurrence on Hopper GPUs (sm_90a), for float16 and bfloat16: the calls of
// recurrent_cuda.h without delta rule, without normaliser and without decays per channel. Products
// are of the tensors' type with float32 sums, as recurrent_sm90_walk.cuh describes; the state is
// float32. docs/kernels.md explains the design.
#ifndef ATTND_KERNELS_CORES_RECURRENT_SM90_H_
#define ATTND_KERNELS_CORES_RECURRENT_SM90_H_

#include "kernels/core/registry.h"
#include "kernels/cores/recurrent_cuda.h"

namespace attnd::cuda {

// Queues the computation on the backend's stream. The call must be of the sizes and types below.
// RESOURCE_EXHAUSTED if the sums of units do not fit in memory or a launch would be too large.
absl::Status RecurrentSm90(Backend& backend, const RecurrentCall& call);

// Whether it takes tensors of this type and these head sizes: K of 64 or 128, V of 64, 128, 192 or
// 256.
bool FitsRecurrentSm90(DType dtype, int64_t key_size, int64_t value_size);

// Adds the kernel "chunk_sm90" to an operator with inputs q, k, v, if the current device is one
// that it runs on. `supports` is asked about calls that fit.
void AddRecurrentSm90(Registry& registry, absl::string_view op,
                      std::function<bool(const BoundCall&)> supports, KernelBody run);

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CORES_RECURRENT_SM90_H_
