// The delta rule, chunk by chunk, on the CPU (Yang et al., "Parallelizing Linear Transformers with
// the Delta Rule over Sequence Length", 2024; with decay: "Gated Delta Networks", 2024; per
// channel: "Kimi Linear", 2025). Per head:
//
//   S~ = diag(e^g_t) S_{t-1},  u_t = beta_t (v_t - S~^T k_t),  S_t = S~ + k_t u_t^T,  o_t = scale
//   S_t^T q_t
//
// Within a chunk the u of all tokens solve one unit lower triangular system, (I + A) U = beta (V -
// (K e^G) S), with A_rs = beta_r sum_i k_ri k_si e^(G_r - G_s)_i for s < r; then O = (Q e^G) S + P
// U and S = e^G_end S + (K e^(G_end - G))^T U as in the linear recurrence.
#ifndef ATTND_KERNELS_CORES_DELTA_H_
#define ATTND_KERNELS_CORES_DELTA_H_

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/core/call.h"
#include "kernels/core/tensor.h"
#include "kernels/cores/recurrent_tiles.h"

namespace attnd::cpu {

struct DeltaCall {
  // Contiguous; each float32, float16 or bfloat16.
  Tensor q;  // [B,T,H,K]
  Tensor k;  // [B,T,HK,K]
  Tensor v;  // [B,T,HV,V]
  Tensor o;  // [B,T,HO,V]; every head count divides HO.
  absl::Span<const Sequence> sequences;
  double scale = 1;

  Decay decay = Decay::kNone;
  Tensor g;     // See Decay.
  Tensor beta;  // float32 [B,T,HB]. Undefined: 1.

  // float32 [M,HO,K,V]; the initial one may be undefined (zeros).
  Tensor initial_state, final_state;
};

// float32 inside, the triangular solve by forward substitution in row order.
absl::Status DeltaRule(const DeltaCall& call);

}  // namespace attnd::cpu

#endif  // ATTND_KERNELS_CORES_DELTA_H_
