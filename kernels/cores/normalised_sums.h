// Linear recurrences with a normaliser, by an operator that has none: z is the state of one more
// value column, of ones.
//
//   S_t = diag(e^g_t) S_{t-1} + k_t v_t^T,  z_t = e^g_t z_{t-1} + k_t
#ifndef ATTND_KERNELS_CORES_NORMALISED_SUMS_H_
#define ATTND_KERNELS_CORES_NORMALISED_SUMS_H_

#include "kernels/primitives/composer.h"

namespace attnd {

struct NormalisedCall {
  Array q;  // [B,T,H,K]
  Array k;  // [B,T,H,K]
  Array v;  // [B,T,HV,V]
  Array g;  // Log decay [B,T,HG,K] or [B,T,HG]; undefined: 0.
  // [B,H,K,V] and [B,H,K]; undefined: zeros.
  Array state, z;
  double scale = 1;
};

struct NormalisedSums {
  Array sums;   // [B,T,H,V]: scale S_t^T q_t
  Array total;  // [B,T,H,1]: scale q_t·z_t
  Array state, z;
};

// By gla, or linear_attention without a gate.
NormalisedSums SumWithNormaliser(Composer& c, const NormalisedCall& call);

// [.., V] with a column of ones behind it.
Array WithOnes(Composer& c, const Array& v);
// S [.., K,V] and z [.., K] as one state [.., K,V+1]; undefined if neither is defined,
// zeros for one that is not.
Array JoinedState(Composer& c, const Array& state, const Array& z, int64_t value_size);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_NORMALISED_SUMS_H_
