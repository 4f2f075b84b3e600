// Products of tiles in shared memory by all warps of a block of the recurrent core.
#ifndef ATTND_KERNELS_CORES_RECURRENT_PRODUCTS_CUH_
#define ATTND_KERNELS_CORES_RECURRENT_PRODUCTS_CUH_

#include "kernels/cores/recurrent_params.cuh"
#include "kernels/cuda/fragments.cuh"

namespace attnd::cuda {

inline constexpr int kRecurrentWarps = kRecurrentThreads / kWarpSize;

// out(m, n) = sum over k of a b for every m < rows, n < columns (multiples of 16), spread over the
// block's warps; `Sum` adds the products of one 16 x 16 tile, `store` takes each element.
template <typename SumTile, typename Store>
__device__ void ForTiles(int rows, int columns, SumTile sum_tile, Store store) {
  const int warp = threadIdx.x / kWarpSize;
  const int tiles = rows / 16 * (columns / 16);
  for (int tile = warp; tile < tiles; tile += kRecurrentWarps) {
    const int m = tile / (columns / 16) * 16, n = tile % (columns / 16) * 16;
    Fragments<float>::Accumulator sum;
    sum_tile(m, n, sum);
#pragma unroll
    for (int block = 0; block < 2; ++block) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        store(m + Lane() / 4 + i / 2 * 8, n + block * 8 + Lane() % 4 * 2 + i % 2,
              sum.Value(block, i));
      }
    }
  }
}

// sum += a[m.., 0..depth] b[.., n..] for a[m,k] in rows and b[k,n] = b_rows[n,k].
__device__ inline void AddByRow(const float* a, int a_stride, const float* b, int b_stride,
                                int depth, Fragments<float>::Accumulator& sum) {
#pragma unroll 4
  for (int k = 0; k < depth; k += Fragments<float>::kStep) {
    Fragments<float>::Multiply(Fragments<float>::LoadA(a + k, a_stride),
                               Fragments<float>::LoadByRow(b + k, b_stride), sum);
  }
}

// The same for b[k,n] in rows.
__device__ inline void AddByColumn(const float* a, int a_stride, const float* b, int b_stride,
                                   int depth, Fragments<float>::Accumulator& sum) {
#pragma unroll 4
  for (int k = 0; k < depth; k += Fragments<float>::kStep) {
    Fragments<float>::Multiply(Fragments<float>::LoadA(a + k, a_stride),
                               Fragments<float>::LoadByColumn(b + k * b_stride, b_stride), sum);
  }
}

// Of products with lower triangular a: the zeros above its diagonal would make NaN of what is
// infinite in b. Where b is `wild` somewhere, the matrices' product leaves those elements out...
__device__ inline void AddLower(const float* a, int a_stride, const float* b, int b_stride,
                                int depth, bool wild, Fragments<float>::Accumulator& sum) {
  if (!wild) return AddByColumn(a, a_stride, b, b_stride, depth, sum);
  for (int k = 0; k < depth; k += Fragments<float>::kStep) {
    Fragments<float>::Multiply(
        Fragments<float>::LoadA(a + k, a_stride),
        Fragments<float>::Pick(Fragments<float>::LoadByColumn(b + k * b_stride, b_stride),
                               Part::kFinite),
        sum);
  }
}
// ...and each element of the result gets them apart: those of b[0..m, n] times a[m, 0..m].
__device__ inline float WildPart(const float* a_row, int m, const float* b_column, int b_stride) {
  float sum = 0;
  for (int k = 0; k <= m; ++k) {
    const float value = b_column[k * b_stride];
    if (!isfinite(value)) sum += a_row[k] * value;
  }
  return sum;
}

// The same for a[m,k] = a_rows[k,m].
__device__ inline void AddTransposed(const float* a, int a_stride, const float* b, int b_stride,
                                     int depth, Fragments<float>::Accumulator& sum) {
#pragma unroll 4
  for (int k = 0; k < depth; k += Fragments<float>::kStep) {
    Fragments<float>::Multiply(Fragments<float>::LoadAByColumn(a + k * a_stride, a_stride),
                               Fragments<float>::LoadByColumn(b + k * b_stride, b_stride), sum);
  }
}

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CORES_RECURRENT_PRODUCTS_CUH_
