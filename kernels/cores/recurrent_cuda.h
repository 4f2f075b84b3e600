// The linear recurrence and the delta rule on CUDA, chunk by chunk (linear_recurrent.h and delta.h
// have the equations). Two kernels: the first works on every chunk of 64 tokens at once and leaves
// what does not depend on the state (the weights within the chunk, the decayed queries and keys,
// the inverse of the delta rule's triangular system); the second walks each head's chunks in order
// with a slice of the state in shared memory. Products are float32 (three TF32 products on the
// tensor cores) whatever the type of the tensors.
#ifndef ATTND_KERNELS_CORES_RECURRENT_CUDA_H_
#define ATTND_KERNELS_CORES_RECURRENT_CUDA_H_

#include "absl/status/status.h"
#include "kernels/core/call.h"
#include "kernels/core/tensor.h"
#include "kernels/cores/recurrent_tiles.h"
#include "kernels/primitives/primitives.h"

namespace attnd::cuda {

struct RecurrentCall {
  // Contiguous device tensors; each float32, float16 or bfloat16.
  Tensor q;  // [B,T,H,K]
  Tensor k;  // [B,T,HK,K]
  Tensor v;  // [B,T,HV,V]
  Tensor o;  // [B,T,HO,V]; every head count divides HO.
  absl::Span<const Sequence> sequences;
  double scale = 1;

  Decay decay = Decay::kNone;
  Tensor g;  // float32; see Decay.
  // float32 [B,T,heads,V]: log decay per value channel; not with the delta rule or a normaliser.
  // Undefined: 0.
  Tensor value_decay;

  bool delta = false;
  Tensor beta;  // float32 [B,T,HB], for the delta rule. Undefined: 1.

  // float32 [M,HO,K,V]; the initial one may be undefined (zeros).
  Tensor initial_state, final_state;
  // float32 [M,HO,K] and [B,T,HO]: z and scale q_t·z_t; computed if final_z is defined.
  Tensor initial_z, final_z, dots;
};

// Queues the computation on the backend's stream. RESOURCE_EXHAUSTED if the chunks' tiles do not
// fit in memory.
absl::Status Recurrent(Backend& backend, const RecurrentCall& call);

// Whether the tiles of such a call fit in shared memory on every device of this machine: K to 256,
// or to 128 with a decay per key channel, where a block may have as much as on the H100; any V.
struct RecurrentForm {
  int64_t key_size;
  Decay decay;
  bool delta = false;
  bool value_decay = false;
};
bool FitsRecurrent(const RecurrentForm& form);

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CORES_RECURRENT_CUDA_H_
