// The state of one head in a warpgroup's registers, and what a chunk does to it.
//
// A warpgroup keeps S^T for 64 channels of values: the layout in which the tensor cores add to it
// (V^T K) is also the one in which they read it as the left factor of S^T Q^T, so the state never
// visits shared memory.
#ifndef ATTND_KERNELS_CORES_RECURRENT_SM90_STATE_CUH_
#define ATTND_KERNELS_CORES_RECURRENT_SM90_STATE_CUH_

#include "kernels/cores/recurrent_sm90_gates.cuh"
#include "kernels/cuda/hopper/matrix_move.cuh"
#include "kernels/cuda/hopper/swizzle.cuh"
#include "kernels/cuda/hopper/tile_copy.cuh"
#include "kernels/cuda/hopper/warp_roles.cuh"
#include "kernels/cuda/hopper/wgmma.cuh"

namespace attnd::cuda {

// 64 tokens of 64 channels.
inline constexpr int kSm90TileBytes = kSm90Chunk * hopper::kTileRowBytes;
// Channels of values of a warpgroup.
inline constexpr int kSm90Values = 64;

// Two floats as elements of a register, the first in its low half.
template <typename T>
__device__ uint32_t PackPair(float first, float second) {
  uint32_t packed;
  if constexpr (std::is_same_v<T, __half>) {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(second), "f"(first));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(second), "f"(first));
  }
  return packed;
}

template <typename T>
__device__ float2 UnpackPair(uint32_t packed) {
  if constexpr (std::is_same_v<T, __half>) {
    return __half22float2(*reinterpret_cast<const __half2*>(&packed));
  } else {
    return make_float2(__uint_as_float(packed << 16), __uint_as_float(packed & 0xffff0000u));
  }
}

// Calls visit(i, k, v) for the elements i of a thread's K / 2 registers of S^T.
template <int K, typename Visit>
__device__ void ForState(int thread, Visit visit) {
  const int v = thread / 32 * 16 + thread % 32 / 4, k = thread % 4 * 2;
#pragma unroll
  for (int i = 0; i < K / 2; ++i) visit(i, i / 4 * 8 + k + i % 2, v + i % 4 / 2 * 8);
}

// A unit's state in the workspace: of its slot, head and slice, as the threads hold it.
template <int K>
struct UnitState {
  __device__ UnitState(const Sm90Params& p, float* units, int slot, int head, int slice,
                       int warpgroup, int thread) {
    const int64_t block = (int64_t{slot} * p.heads + head) * (p.V / p.slice) + slice;
    at = reinterpret_cast<float4*>(units + block * K * p.slice + warpgroup * K * kSm90Values) +
         thread;
  }
  __device__ void Load(float (&s)[K / 2]) const {
#pragma unroll
    for (int i = 0; i < K / 8; ++i) {
      const float4 x = __ldcg(at + i * hopper::kWarpgroup);
      s[4 * i] = x.x, s[4 * i + 1] = x.y, s[4 * i + 2] = x.z, s[4 * i + 3] = x.w;
    }
  }
  __device__ void Store(const float (&s)[K / 2]) const {
#pragma unroll
    for (int i = 0; i < K / 8; ++i) {
      at[i * hopper::kWarpgroup] = make_float4(s[4 * i], s[4 * i + 1], s[4 * i + 2], s[4 * i + 3]);
    }
  }
  float4* at;
};

// Where a thread reads its pieces of V^T as left factors: rows of a tile of V, transposed.
__device__ inline uint32_t ValueFragment(int thread, int tokens16) {
  const int lane = thread % 32;
  const int token = tokens16 * 16 + lane / 16 * 8 + lane % 8;
  return hopper::Swizzled(token, thread / 32 * 2 + lane / 8 % 2);
}

// Queues s = e^G_end s + (V e^(G_end - G))^T K as one group of products. `values`: the warpgroup's
// tile of V; `keys`: the tiles of K.
template <typename T, int K, bool kDecay>
__device__ void AddChunk(int thread, uint32_t keys, uint32_t values, const Sm90Gates& gates,
                         float (&s)[K / 2]) {
  using hopper::Along;
  constexpr int kSteps = kSm90Chunk / 16;
  constexpr uint32_t kStepBytes = 16 * hopper::kTileRowBytes;
  if constexpr (kDecay) {
    uint32_t factors[kSteps][4];
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      hopper::LoadTransposed(values + ValueFragment(thread, step), factors[step]);
      const float2* until = reinterpret_cast<const float2*>(gates.until) + step * 8 + thread % 4;
      const float2 near = until[0], far = until[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 v = UnpackPair<T>(factors[step][i]);
        const float2 decay = i < 2 ? near : far;
        factors[step][i] = PackPair<T>(v.x * decay.x, v.y * decay.y);
      }
    }
    const float end = gates.end;
#pragma unroll
    for (int i = 0; i < K / 2; ++i) s[i] *= end;
    hopper::FenceRegisters();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      hopper::Multiply<T, Along::kOther>(
          s, factors[step],
          hopper::Operand<Along::kOther>(keys + step * kStepBytes, kSm90TileBytes), true);
    }
  } else {
    hopper::FenceRegisters();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      hopper::Multiply<T, Along::kOther, Along::kOther>(
          s, hopper::Operand<Along::kOther>(values + step * kStepBytes, kSm90TileBytes),
          hopper::Operand<Along::kOther>(keys + step * kStepBytes, kSm90TileBytes), true);
    }
  }
  hopper::CommitProducts();
}

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CORES_RECURRENT_SM90_STATE_CUH_
