// What the Hopper kernels of the linear recurrence are launched with.
#ifndef ATTND_KERNELS_CORES_RECURRENT_SM90_PARAMS_CUH_
#define ATTND_KERNELS_CORES_RECURRENT_SM90_PARAMS_CUH_

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cores/recurrent_sm90_plan.h"

namespace attnd::cuda {

struct Sm90Params {
  // Sizes. A block's state has all K channels of keys and a slice of 64 or 128 of the V of values.
  int K, V, slice;
  int heads;  // HO
  int64_t tokens;
  int group_q, group_k, group_v;  // HO / H and so on.
  float scale;

  // Log decays: null for none, [HO] if !per_token, else [B,T,gate_heads].
  const float* g;
  bool per_token;
  int gate_heads;

  // [M,HO,K,V]; the initial one may be null (zeros).
  const float* initial_state;
  float* final_state;
  // [B,T,HO,V], of the tensors' type.
  void* o;

  // The plan on the device; see recurrent_sm90_plan.h. `whole`: no table, every sequence is one
  // span and a row of `tokens`.
  bool whole;
  int unit;  // Of whole.
  const Sm90Span* spans;
  const int* summed;
  const Sm90Chain* chains;
  int span_count, summed_count, chain_count;
  // Whether the states before spans are worked out by a kernel of their own; otherwise each walk
  // combines the sums of the units before it.
  bool chains_apart;

  // Of every unit slot, head and slice: the unit's own sum, the state before it (both as threads
  // hold it, see StateRegisters) and the unit's decay.
  float* unit_sums;
  float* unit_states;
  float* unit_decays;

  __device__ Sm90Span Span(int i) const {
    if (!whole) return spans[i];
    return {i, 0, static_cast<int>(tokens), i, unit, 0, 0, 1, 1};
  }
};

// Launches what the plan asks for: sums of units, chains of states, walks. bfloat16 and float16.
struct Sm90Maps {
  CUtensorMap q, k, v, o;
};
cudaError_t LaunchSm90Bfloat16(cudaStream_t stream, const Sm90Maps& maps, const Sm90Params& p);
cudaError_t LaunchSm90Float16(cudaStream_t stream, const Sm90Maps& maps, const Sm90Params& p);

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CORES_RECURRENT_SM90_PARAMS_CUH_
