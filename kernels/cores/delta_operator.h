// From a bound call of a delta-rule operator to the CPU core.
#ifndef ATTND_KERNELS_CORES_DELTA_OPERATOR_H_
#define ATTND_KERNELS_CORES_DELTA_OPERATOR_H_

#include "kernels/core/registry.h"

namespace attnd::cpu {

// The kernel "chunk_cpu" of an operator whose inputs are named q, k, v, g, beta, initial_state.
Kernel DeltaKernel();

}  // namespace attnd::cpu

#endif  // ATTND_KERNELS_CORES_DELTA_OPERATOR_H_
