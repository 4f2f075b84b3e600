// Descriptions of tensors for the copy engine (TMA). The driver's encoder is found at run time:
// nothing links to libcuda.
#ifndef ATTND_KERNELS_CUDA_HOPPER_TENSOR_MAP_H_
#define ATTND_KERNELS_CUDA_HOPPER_TENSOR_MAP_H_

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace attnd::cuda::hopper {

// A contiguous tensor [rows,tokens,heads,width] of two-byte elements, 16-byte aligned, width a
// multiple of 64.
struct HeadTensor {
  void* data;
  bool is_bfloat16;  // float16 otherwise.
  int64_t rows, tokens, heads, width;
};

// The tile that a copy moves: `tokens` of one head, 64 channels of each (kTileBytes of a row), in
// shared memory as rows of 128 bytes with the 128-byte swizzle. Beyond the last token a load reads
// zeros and a store writes nothing.
inline constexpr int kTileChannels = 64;
inline constexpr int kTileRowBytes = 128;

// cudaErrorNotSupported if the driver has no encoder, cudaErrorInvalidValue if it refuses.
cudaError_t EncodeHeadTiles(const HeadTensor& tensor, int tokens, CUtensorMap* map);

}  // namespace attnd::cuda::hopper

#endif  // ATTND_KERNELS_CUDA_HOPPER_TENSOR_MAP_H_
