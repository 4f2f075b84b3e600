// What a walking block keeps in shared memory, and the scales by which float16 is kept in range.
#ifndef ATTND_KERNELS_CORES_RECURRENT_SM90_STAGE_CUH_
#define ATTND_KERNELS_CORES_RECURRENT_SM90_STAGE_CUH_

#include "kernels/cores/recurrent_sm90_state.cuh"

namespace attnd::cuda {

template <int K, int kSlice>
struct WalkStage {
  alignas(1024) unsigned char queries[K / 64][kSm90TileBytes];
  unsigned char keys[K / 64][kSm90TileBytes];
  unsigned char values[kSlice / 64][kSm90TileBytes];

  // Keys and values past a sequence's end may be another's: not even a product with zero may see
  // them. By kSlice / 64 warpgroups.
  __device__ void ClearBeyond(int count, int thread) {
    const int pieces = (kSm90Chunk - count) * hopper::kTileRowBytes / 16;
    for (int i = thread; i < (K + kSlice) / 64 * pieces; i += hopper::kWarpgroup * kSlice / 64) {
      *reinterpret_cast<uint4*>(keys[0] + i / pieces * kSm90TileBytes +
                                count * hopper::kTileRowBytes + i % pieces * 16) =
          make_uint4(0, 0, 0, 0);
    }
  }
};

template <int K, int kSlice>
struct WalkMemory {
  static constexpr int kStages = K + kSlice > 192 ? 3 : 4;
  WalkStage<K, kSlice> stages[kStages];
  alignas(1024) unsigned char weights[2][kSm90TileBytes];
  unsigned char outputs[kSlice / 64][kSm90TileBytes];
  unsigned char taken[kSlice / 64][kSm90TileBytes];  // See TakeOutNonFinite.
  Sm90Gates gates[kStages];
  float most[3][kSlice / 64][kSm90Chunk];  // float16: of a token's weights, by half.
  int next_is_there[2];                    // Of the next chunk's tiles and gates.
  // Of even and odd chunks, by half: the number, from 1, of the last whose values are not all
  // finite.
  int non_finite[2][kSlice / 64];
  hopper::Barrier full[kStages], empty[kStages];
};

// A power of two that brings a largest magnitude to [2^13, 2^14), and its inverse; 1 for zero and
// for what is not finite.
struct PowerOfTwo {
  float factor = 1, inverse = 1;

  __device__ explicit PowerOfTwo(float most) {
    const uint32_t exponent = __float_as_uint(most) >> 23 & 0xff;
    if (exponent == 255 || most == 0) return;
    const uint32_t shift = min(max(exponent, 30u), 230u);
    factor = __uint_as_float((267 - shift) << 23);
    inverse = __uint_as_float((shift - 13) << 23);
  }
};

// The largest of a value over the four threads that share a row.
__device__ inline float MaxOfRow(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CORES_RECURRENT_SM90_STAGE_CUH_
