// Element-wise loops over strided operands on the device: one thread per element, axes merged on
// the host.
#ifndef ATTND_KERNELS_PRIMITIVES_CUDA_STRIDED_CUH_
#define ATTND_KERNELS_PRIMITIVES_CUDA_STRIDED_CUH_

#include <cuda_runtime.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "kernels/core/tensor.h"

namespace attnd::cuda {

inline constexpr int kElementThreads = 256;

// N operands that walk over one shape, each with its own byte strides (0 repeats).
template <int N>
struct Walk {
  int rank = 0;
  int64_t count = 1;
  int64_t shape[kMaxRank];
  int64_t strides[N][kMaxRank];
  char* base[N];

  // Where element `index` of each operand is.
  __device__ void At(int64_t index, char* (&at)[N]) const {
#pragma unroll
    for (int i = 0; i < N; ++i) at[i] = base[i];
    for (int axis = rank - 1; axis > 0; --axis) {
      const int64_t quotient = index / shape[axis];
      const int64_t position = index - quotient * shape[axis];
      index = quotient;
#pragma unroll
      for (int i = 0; i < N; ++i) at[i] += position * strides[i][axis];
    }
#pragma unroll
    for (int i = 0; i < N; ++i) at[i] += index * strides[i][0];
  }
};

// Every operand broadcasts to `shape`.
template <int N>
Walk<N> MakeWalk(const Dims& shape, const std::array<const Tensor*, N>& operands) {
  Walk<N> walk;
  std::array<Dims, N> strides;
  for (int i = 0; i < N; ++i) {
    const Tensor view = operands[i]->Expand(shape);
    walk.base[i] = static_cast<char*>(view.raw());
    strides[i] = view.strides();
    for (int64_t& stride : strides[i]) stride *= static_cast<int64_t>(SizeOf(view.dtype()));
  }
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    walk.count *= shape[axis];
    if (shape[axis] == 1) continue;
    bool merges = walk.rank > 0;
    for (int i = 0; i < N && merges; ++i) {
      merges = walk.strides[i][walk.rank - 1] == shape[axis] * strides[i][axis];
    }
    if (!merges) walk.shape[walk.rank++] = 1;
    walk.shape[walk.rank - 1] *= shape[axis];
    for (int i = 0; i < N; ++i) walk.strides[i][walk.rank - 1] = strides[i][axis];
  }
  if (walk.rank == 0) {
    walk.rank = 1;
    walk.shape[0] = 1;
    for (int i = 0; i < N; ++i) walk.strides[i][0] = 0;
  }
  return walk;
}

template <int N, typename Body>
__global__ void ForEachKernel(Walk<N> walk, Body body) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < walk.count;
       i += int64_t{gridDim.x} * blockDim.x) {
    char* at[N];
    walk.At(i, at);
    body(at, i);
  }
}

// body(char* (&at)[N], int64_t index) for every element of the walk.
template <int N, typename Body>
void ForEach(cudaStream_t stream, const Walk<N>& walk, Body body) {
  if (walk.count == 0) return;
  const int64_t blocks =
      std::min<int64_t>((walk.count + kElementThreads - 1) / kElementThreads, 1 << 16);
  ForEachKernel<N><<<static_cast<unsigned>(blocks), kElementThreads, 0, stream>>>(walk, body);
}

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_PRIMITIVES_CUDA_STRIDED_CUH_
