// Four 8 x 8 matrices of two-byte elements between shared memory and a warp's registers (PTX ISA,
// "ldmatrix", "stmatrix"). Lane l gives the address of row l mod 8 of matrix l / 8. A register of
// lane l holds elements (l / 4, 2 (l mod 4)) and the next of its matrix; transposed: elements
// (2 (l mod 4), l / 4) and the one below.
#ifndef ATTND_KERNELS_CUDA_HOPPER_MATRIX_MOVE_CUH_
#define ATTND_KERNELS_CUDA_HOPPER_MATRIX_MOVE_CUH_

#include <cstdint>

namespace attnd::cuda::hopper {

__device__ inline void LoadTransposed(uint32_t row_address, uint32_t (&out)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(row_address)
               : "memory");
}

__device__ inline void StoreMatrices(uint32_t row_address, const uint32_t (&in)[4]) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row_address),
      "r"(in[0]), "r"(in[1]), "r"(in[2]), "r"(in[3])
      : "memory");
}

__device__ inline void StoreTransposed(uint32_t row_address, const uint32_t (&in)[4]) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row_address),
      "r"(in[0]), "r"(in[1]), "r"(in[2]), "r"(in[3])
      : "memory");
}

}  // namespace attnd::cuda::hopper

#endif  // ATTND_KERNELS_CUDA_HOPPER_MATRIX_MOVE_CUH_
