#include "kernels/cuda/hopper/tensor_map.h"

#include <algorithm>

namespace attnd::cuda::hopper {
namespace {

using Encoder = decltype(&cuTensorMapEncodeTiled);

Encoder FindEncoder() {
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  constexpr unsigned kSince = 12000;  // The version of the driver's interface that has it.
  const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry,
                                                             kSince, cudaEnableDefault, &found);
  if (error != cudaSuccess || found != cudaDriverEntryPointSuccess) return nullptr;
  return reinterpret_cast<Encoder>(entry);
}

}  // namespace

cudaError_t EncodeHeadTiles(const HeadTensor& tensor, int tokens, CUtensorMap* map) {
  static const Encoder encode = FindEncoder();
  if (encode == nullptr) return cudaErrorNotSupported;
  // Innermost first. An empty tensor has no tile to move, but its map must be valid.
  const auto size = [](int64_t n) { return static_cast<cuuint64_t>(std::max<int64_t>(1, n)); };
  const cuuint64_t sizes[] = {size(tensor.width), size(tensor.heads), size(tensor.tokens),
                              size(tensor.rows)};
  constexpr cuuint64_t kElement = 2;
  const cuuint64_t strides[] = {sizes[0] * kElement, sizes[0] * sizes[1] * kElement,
                                sizes[0] * sizes[1] * sizes[2] * kElement};
  const cuuint32_t box[] = {kTileChannels, 1, static_cast<cuuint32_t>(tokens), 1};
  const cuuint32_t steps[] = {1, 1, 1, 1};
  const CUresult result = encode(
      map, tensor.is_bfloat16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
      4, tensor.data, sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace attnd::cuda::hopper
