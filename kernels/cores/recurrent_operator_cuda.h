// From bound calls of the recurrent operators to the CUDA core.
#ifndef ATTND_KERNELS_CORES_RECURRENT_OPERATOR_CUDA_H_
#define ATTND_KERNELS_CORES_RECURRENT_OPERATOR_CUDA_H_

#include "kernels/core/registry.h"
#include "kernels/cores/recurrent_cuda.h"

namespace attnd::cuda {

// The parts that every operator of the family names alike: q, k, v, o, scale and the state.
RecurrentCall RecurrentCallOf(const BoundCall& call, const NamedTensors& outputs);

// That of g [B,T,HG] or [B,T,HG,K], or undefined.
Decay DecayOf(const Tensor& g);

// The kernel "chunk_cuda" of an operator whose inputs are named q, k, v, g, beta, initial_state.
Kernel DeltaCudaKernel();

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CORES_RECURRENT_OPERATOR_CUDA_H_
