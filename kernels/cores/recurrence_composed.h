// The recurrence of the linear and delta families token by token, as their papers define it: what
// composed definitions are written with.
#ifndef ATTND_KERNELS_CORES_RECURRENCE_COMPOSED_H_
#define ATTND_KERNELS_CORES_RECURRENCE_COMPOSED_H_

#include "kernels/primitives/composer.h"

namespace attnd {

struct Recurrence {
  Array q, k, v;      // [B,T,HO,K], [B,T,HO,K], [B,T,HO,V]
  Array decay;        // Log decay, [B,T,HO,1] or [B,T,HO,K]; undefined: 0.
  Array value_decay;  // Log decay per value channel, [B,T,HO,V]; undefined: 0.
  Array beta;         // [B,T,HO]; defined: the delta rule.
  double scale = 1;
  Array state;  // [B,HO,K,V]: the initial state; undefined: zeros.
  Array z;      // [B,HO,K]: the initial normaliser; undefined: zeros.
  bool keeps_z = false;
};

struct RecurrenceResult {
  Array o;      // [B,T,HO,V]
  Array state;  // [B,HO,K,V]
  Array z;      // [B,HO,K]        with keeps_z
  Array dots;   // [B,T,HO,1]      with keeps_z: scale q_t·z_t
};

// Per head, in this order: decay, write, read.
//   S <- e^decay S e^value_decay;  S <- S + k v^T, or S + k (beta (v - S^T k))^T;  o = scale S^T q
//   z <- e^decay z + k
RecurrenceResult RunRecurrence(Composer& c, const Recurrence& r);

// An input [B,T,heads,..] with its heads repeated to HO.
Array InHeads(Composer& c, absl::string_view name);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_RECURRENCE_COMPOSED_H_
