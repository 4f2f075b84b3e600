// Values that are NaN or infinite, in a product that masks by zero weights.
//
// O^T += V^T P^T multiplies every value of a chunk by the weights of every token, and the weight
// of a token before the value is zero: times NaN or infinity, that is NaN. Such values are rare:
// whether a tile holds one is found out while the tensor cores are busy, and those of a tile that
// does are added by hand to who reads them and are zero by the time of the tile's products. No
// other operand needs this. Keys and gates enter P, which is masked by selection; what the state
// holds is read by all of the chunk; and a decay of zero times infinity is NaN in the definition.
#ifndef ATTND_KERNELS_CORES_RECURRENT_SM90_NON_FINITE_CUH_
#define ATTND_KERNELS_CORES_RECURRENT_SM90_NON_FINITE_CUH_

#include "kernels/cores/recurrent_sm90_state.cuh"

namespace attnd::cuda {

// Whether the thread's share of a tile holds any, by a warpgroup.
template <typename T>
__device__ bool HasNonFinite(const unsigned char* tile, int thread) {
  using Pair = std::conditional_t<std::is_same_v<T, __half>, __half2, __nv_bfloat162>;
  constexpr int kPieces = kSm90TileBytes / 16 / hopper::kWarpgroup;
  // Zero times a value is zero or NaN, and so are sums of that.
  const Pair zero = {T(0.0f), T(0.0f)};
  Pair sums[4] = {zero, zero, zero, zero};
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    const uint4 piece = reinterpret_cast<const uint4*>(tile)[thread + i * hopper::kWarpgroup];
    const auto* pairs = reinterpret_cast<const Pair*>(&piece);
#pragma unroll
    for (int j = 0; j < 4; ++j) sums[j] = __hfma2(pairs[j], zero, sums[j]);
  }
  const auto* bits = reinterpret_cast<const uint32_t*>(sums);
  return (bits[0] | bits[1] | bits[2] | bits[3]) != 0;
}

// The element, or the first of those that a wider T holds.
template <typename T>
__device__ T& ElementOf(unsigned char* tile, int row, int column) {
  return *reinterpret_cast<T*>(tile + hopper::Swizzled(row, column / 8) + column % 8 * 2);
}

// Adds what a chunk's values that are not finite add to its outputs, o^T += V^T P^T, and moves them
// from `values`, the warpgroup's tile of V, to `taken`, with zeros elsewhere in it and in their
// place. `weights`: P. By a warpgroup, which is to pass FenceTiles and a barrier before it
// multiplies.
template <typename T>
__device__ void TakeOutNonFinite(int thread, unsigned char* values, unsigned char* weights,
                                 unsigned char* taken, float (&o)[kSm90Chunk / 2]) {
  const int channel = thread / 32 * 16 + thread % 32 / 4, pair = thread % 4 * 2;
#pragma unroll 1
  for (int token = 0; token < kSm90Chunk; ++token) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const T value = ElementOf<T>(values, token, channel + half * 8);
      const bool finite = isfinite(static_cast<float>(value));
      // A channel's four threads are of one warp.
      __syncwarp();
      if (pair == 0) {
        ElementOf<T>(taken, token, channel + half * 8) = finite ? T(0.0f) : value;
        if (!finite) ElementOf<T>(values, token, channel + half * 8) = T(0.0f);
      }
      if (finite) continue;
#pragma unroll
      for (int i = 0; i < kSm90Chunk / 4; ++i) {
        const int reader = i / 2 * 8 + pair + i % 2;
        float& sum = o[i / 2 * 4 + half * 2 + i % 2];
        const float with = fmaf(static_cast<float>(ElementOf<T>(weights, reader, token)),
                                static_cast<float>(value), sum);
        sum = reader < token ? sum : with;
      }
    }
  }
}

// Adds what was taken out to the state, s += (V e^(G_end - G))^T K. By the same threads.
template <typename T, int K, bool kDecay>
__device__ void AddTakenToState(int thread, unsigned char* keys, unsigned char* taken,
                                const Sm90Gates& gates, float (&s)[K / 2]) {
  const int channel = thread / 32 * 16 + thread % 32 / 4, pair = thread % 4 * 2;
#pragma unroll 1
  for (int token = 0; token < kSm90Chunk; ++token) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float value = static_cast<float>(ElementOf<T>(taken, token, channel + half * 8));
      if (value == 0) continue;
      if constexpr (kDecay) value *= gates.until[token];
#pragma unroll
      for (int i = 0; i < K / 8; ++i) {
        const int k = i * 8 + pair;
        const float2 key =
            UnpackPair<T>(ElementOf<uint32_t>(keys + k / 64 * kSm90TileBytes, token, k % 64));
        s[i * 4 + half * 2] = fmaf(key.x, value, s[i * 4 + half * 2]);
        s[i * 4 + half * 2 + 1] = fmaf(key.y, value, s[i * 4 + half * 2 + 1]);
      }
    }
  }
}

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CORES_RECURRENT_SM90_NON_FINITE_CUH_
