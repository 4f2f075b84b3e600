// Tiles in the layout of the 128-byte swizzle: rows of 128 bytes, the 16-byte pieces of row r
// permuted by exclusive or with r mod 8, so that eight rows of one column touch all banks. Tiles
// start at multiples of 1024 bytes.
#ifndef ATTND_KERNELS_CUDA_HOPPER_SWIZZLE_CUH_
#define ATTND_KERNELS_CUDA_HOPPER_SWIZZLE_CUH_

#include <cstdint>

namespace attnd::cuda::hopper {

// Bytes from a tile's start to 16-byte piece `piece` of row `row`.
__host__ __device__ constexpr uint32_t Swizzled(uint32_t row, uint32_t piece) {
  return row * 128 + ((piece ^ (row & 7)) * 16);
}

}  // namespace attnd::cuda::hopper

#endif  // ATTND_KERNELS_CUDA_HOPPER_SWIZZLE_CUH_
