// The causal linear recurrence with decay, chunk by chunk, on the CPU (Katharopoulos et al. 2020;
// Yang et al., "Gated Linear Attention Transformers with Hardware-Efficient Training", 2023,
// section 4). Per head:
//
//   S_t = diag(e^g_t) S_{t-1} diag(e^gv_t) + phi(k_t) (w_t v_t)^T,  z_t = e^g_t z_{t-1} + phi(k_t),
//   y_t = scale S_t^T phi(q_t)
//
// A chunk of 64 tokens costs four matrix products: within the chunk P = (Q K^T) weighed by the
// decay between tokens, O = P V + (Q e^G) S, and S = e^G_end S + (K e^(G_end - G))^T V.
#ifndef ATTND_KERNELS_CORES_LINEAR_RECURRENT_H_
#define ATTND_KERNELS_CORES_LINEAR_RECURRENT_H_

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/core/call.h"
#include "kernels/core/tensor.h"
#include "kernels/cores/feature_maps.h"
#include "kernels/cores/recurrent_tiles.h"

namespace attnd::cpu {

// Outputs of consecutive tokens of one head before they are stored.
struct RecurrentReadout {
  const Sequence& sequence;
  int64_t head;   // Of o.
  int64_t begin;  // First token, counted from the sequence's start.
  int64_t count;
  int64_t value_size;
  const float* dots;  // [count]: scale phi(q_t)·z_t; null without a normaliser.
  float* y;           // [count,V]: in y, out o.
};

struct LinearRecurrentCall {
  // Contiguous, of one type: float32, float16 or bfloat16.
  Tensor q;  // [B,T,H,K]
  Tensor k;  // [B,T,HK,K]
  Tensor v;  // [B,T,HV,V]
  Tensor o;  // [B,T,HO,V]; every head count divides HO.
  absl::Span<const Sequence> sequences;
  double scale = 1;
  // phi of queries and of keys, of one size, which is then K of the states.
  FeatureMap query_map = FeatureMap::kIdentity;
  FeatureMap key_map = FeatureMap::kIdentity;
  double inner_scale = 1;  // Multiplies q and k before phi.

  Decay decay = Decay::kNone;
  Tensor g;  // See Decay.
  // Instead of g, for gates that follow from the keys (Decay::kVector): changes features [count,K]
  // of a head's keys in place and writes the log decays [count,K].
  std::function<void(int64_t head, int64_t count, float* keys, float* gates)> gate_of_keys;

  // gv: float32 [B,T,heads,V], the log decay per value channel. Undefined: 0. Not with a
  // normaliser.
  Tensor value_decay;

  // w: float32 [B,T,HO]. Undefined: 1.
  Tensor value_weight;

  // float32 [M,HO,K,V]; the initial one may be undefined (zeros).
  Tensor initial_state, final_state;
  // float32 [M,HO,K]; z is kept if final_z is defined.
  Tensor initial_z, final_z;

  // Changes features [count,K] of tokens [begin, begin + count) of a sequence in place (rotary
  // positions).
  std::function<void(const Sequence& sequence, int64_t begin, int64_t count, float* features)> turn;
  // Empty: o = y.
  std::function<void(const RecurrentReadout&)> readout;
};

// The read-out of a normalised operator: o = y / (dots + eps).
std::function<void(const RecurrentReadout&)> NormalisedReadout(double eps);

// The parts that every operator of the family names alike: q, k, v, o, scale and the state.
LinearRecurrentCall RecurrentCallOf(const BoundCall& call, const NamedTensors& outputs);

// float32 inside. Heads and sequences run in parallel; a head's tokens in order.
absl::Status LinearRecurrent(const LinearRecurrentCall& call);

// Whether the K x V state and its tiles are of a size that the core is for (both at most 1024).
bool FitsRecurrentCore(int64_t key_size, int64_t value_size);

}  // namespace attnd::cpu

#endif  // ATTND_KERNELS_CORES_LINEAR_RECURRENT_H_
