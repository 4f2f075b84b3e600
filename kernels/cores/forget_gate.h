// The forget gate that bounds itself from below and gives its complement to the key (Qin et al.,
// "HGRN2: Gated Linear RNNs with State Expansion", 2024): from logits f and bounds lb in [0,1),
//
//   a = lb + (1 - lb) sigmoid(f),  k = 1 - a = (1 - lb) sigmoid(-f),  g = ln a = ln(1 - k)
//
// k comes from its own sigmoid and g from k, so that neither cancels where the gate is nearly open.
#ifndef ATTND_KERNELS_CORES_FORGET_GATE_H_
#define ATTND_KERNELS_CORES_FORGET_GATE_H_

#include <cstdint>

#include "kernels/primitives/composer.h"

namespace attnd {

struct ForgetGate {
  Array key;        // k, of f's shape.
  Array log_decay;  // g, likewise.
};

// f [..,H,K]; lower_bound [H,K], or undefined: 0.
ForgetGate ForgetGateOf(const Array& f, const Array& lower_bound);

namespace cpu {

// One head: keys float32 [count,K], f in and k out; gates [count,K] gets g. lower_bound [K], or
// null: 0.
void ForgetGateRows(const float* lower_bound, int64_t count, int64_t key_size, float* keys,
                    float* gates);

}  // namespace cpu
}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_FORGET_GATE_H_
