// Feature maps on the device: the same list as feature_maps.h, element by element or over rows of a
// tile in shared memory.
#ifndef ATTND_KERNELS_CORES_FEATURE_MAPS_CUH_
#define ATTND_KERNELS_CORES_FEATURE_MAPS_CUH_

#include <cuda_runtime.h>

#include "kernels/cores/feature_maps.h"

namespace attnd::cuda {

__device__ inline float Sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// max(x, 0) that lets NaN through.
__device__ inline float Relu(float x) { return x < 0.0f ? 0.0f : x; }

// phi(x) for every map but kSoftmax and kTaylor, which are not functions of one element.
__device__ inline float ApplyToElement(FeatureMap map, float x) {
  switch (map) {
    case FeatureMap::kElu1:
      return x > 0.0f ? x + 1.0f : expf(x);
    case FeatureMap::kRelu:
      return Relu(x);
    case FeatureMap::kRelu2:
      return Relu(x) * Relu(x);
    case FeatureMap::kReluEps:
      return Relu(x) + 1e-6f;
    case FeatureMap::kSilu:
      return x * Sigmoid(x);
    case FeatureMap::kExp:
      return expf(x);
    case FeatureMap::kSigmoid:
      return Sigmoid(x);
    default:
      return x;
  }
}

// row[c] = phi(row)[c] for c < width, by one warp, for any map that keeps a row's size. A lane
// touches elements lane, lane
// + 32, ...
__device__ inline void ApplyToRow(FeatureMap map, float* row, int width) {
  const int lane = threadIdx.x % 32;
  if (map != FeatureMap::kSoftmax) {
    for (int c = lane; c < width; c += 32) row[c] = ApplyToElement(map, row[c]);
    return;
  }
  float top = -INFINITY;
  for (int c = lane; c < width; c += 32) top = fmaxf(top, row[c]);
  for (int step = 16; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, step));
  float sum = 0;
  for (int c = lane; c < width; c += 32) {
    row[c] = expf(row[c] - top);
    sum += row[c];
  }
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  for (int c = lane; c < width; c += 32) row[c] /= sum;
}

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CORES_FEATURE_MAPS_CUH_
