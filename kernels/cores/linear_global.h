// The non-causal core of linear attention on the CPU: everything that queries can know of the keys
// is summed up once, then every query reads the sums (Katharopoulos et al., "Transformers are
// RNNs", 2020).
//
//   M = sum_j w_j R_j phi(k_j) v_j^T   [K,V]        z = sum_j w_j phi(k_j)   [K]
//   mean = (1/n) sum_j v_j             [V]          y_i = M^T R_i phi(q_i)
//
// over the n keys j that the mask keeps, then a hook turns y_i into o_i. O((T + S) K V).
#ifndef ATTND_KERNELS_CORES_LINEAR_GLOBAL_H_
#define ATTND_KERNELS_CORES_LINEAR_GLOBAL_H_

#include <cstdint>
#include <functional>

#include "absl/status/status.h"
#include "kernels/core/tensor.h"
#include "kernels/cores/feature_maps.h"
#include "kernels/primitives/primitives.h"

namespace attnd::cpu {

// Some consecutive queries of one head as the read-out sees them.
struct LinearReadout {
  int64_t row;       // Batch row.
  int64_t head;      // Of o.
  int64_t begin;     // First token.
  int64_t count;     // Tokens.
  int64_t key_size;  // Of features.
  int64_t value_size;
  const float* phi;         // [count,K]: phi(q_i), not turned.
  const float* key_sum;     // [K]: z.
  const float* value_mean;  // [V]
  float* y;                 // [count,V]: in y, out o.
};

struct LinearGlobalCall {
  // Contiguous, of one type: float32, float16 or bfloat16.
  Tensor q;  // [B,T,H,K]
  Tensor k;  // [B,S,HK,K]
  Tensor v;  // [B,S,HV,V]
  Tensor o;  // [B,T,HO,V], HO = max(H,HK,HV); fewer heads are shared by consecutive ones.

  FeatureMap feature_map = FeatureMap::kIdentity;
  double inner_scale = 1;  // Multiplies q and k before phi.

  // bool [B,S], contiguous: the keys that count. Undefined: all.
  Tensor key_mask;
  // w: float32 [B,max(HK,HV),S], contiguous. Undefined: 1.
  Tensor key_weight;

  // R: turns features [count,K] of tokens [begin, begin + count) of a head in place. Empty:
  // identity. z and LinearReadout::phi stay as they were before.
  std::function<void(int64_t begin, int64_t count, float* features)> turn;
  // Empty: o = y.
  std::function<void(const LinearReadout&)> readout;
};

// Whether k and v may have so many heads: there is one sum for each head of the finer of the two,
// so one count divides the other.
bool HeadsNest(int64_t key_heads, int64_t value_heads);

// Sums are float32 over fixed slices of the keys, added in order: results do not depend on threads.
// RESOURCE_EXHAUSTED if the sums do not fit in memory.
absl::Status LinearGlobal(Backend& backend, const LinearGlobalCall& call);

}  // namespace attnd::cpu

#endif  // ATTND_KERNELS_CORES_LINEAR_GLOBAL_H_
