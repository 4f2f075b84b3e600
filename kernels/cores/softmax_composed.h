// Softmax attention as its papers define it, with the whole matrix of scores: what composed
// definitions of the softmax family are written with.
#ifndef ATTND_KERNELS_CORES_SOFTMAX_COMPOSED_H_
#define ATTND_KERNELS_CORES_SOFTMAX_COMPOSED_H_

#include <algorithm>
#include <cstdint>

#include "kernels/primitives/composer.h"

namespace attnd {

struct SoftmaxParts {
  Array q;        // [B,T,H,K]
  Array k;        // [B,S,HK,K]
  Array v;        // [B,S,HV,V]
  Array allowed;  // bool, broadcasts to [B,H,T,S]; undefined: every pair.
  double scale = 1;
  double softcap = 0;  // 0: none.
  Array sinks;         // [H], or undefined.
};

struct SoftmaxResult {
  Array o;    // [B,T,H,V]
  Array lse;  // [B,T,H]
};

// s_ij = scale q_i.k_j (then softcap tanh(s_ij / softcap)); Z_i = sum_j exp(s_ij) (+ exp(sink))
// over allowed j; o_i = sum_j exp(s_ij) v_j / Z_i; lse_i = ln Z_i. A query with nothing to attend
// to gives 0 and -inf.
SoftmaxResult ComposeSoftmax(Composer& c, const SoftmaxParts& parts);

// weights v with weights [..,T,S] that are 0 where `allowed` (bool, broadcasts to them; undefined:
// every pair) is false and not negative anywhere, and v [..,S,V]. A forbidden value leaves no
// trace, not even where it is NaN or infinite.
Array WeighedValues(Composer& c, const Array& weights, const Array& allowed, const Array& v);

// bool [T,S], query i at position i + S - T and key j at j: the key is not after the query (if
// causal), at most `left` before and `right` after it (-1: no limit; right has no effect if
// causal).
Array WindowPairs(Composer& c, int64_t queries, int64_t keys, bool causal, int64_t left,
                  int64_t right);

// The soft-cap that kernels compute with in place of a given one > 0: beyond these bounds float32
// would form 0 times infinity, while scores so capped differ from those of the bound by less than
// their rounding. 0 stays 0: none.
inline double UsableSoftcap(double softcap) {
  return softcap > 0 ? std::clamp(softcap, 1e-30, 1e30) : softcap;
}

// Schema lines that operators of the family share.
inline constexpr char kQueryHeadsRule[] = "H % HK == 0 && H % HV == 0  # HK and HV that divide H";

}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_SOFTMAX_COMPOSED_H_
