// The kernel that walks spans.
#ifndef ATTND_KERNELS_CORES_RECURRENT_SM90_WALK_CUH_
#define ATTND_KERNELS_CORES_RECURRENT_SM90_WALK_CUH_

#include "kernels/cores/recurrent_sm90_walker.cuh"

namespace attnd::cuda {

// One block for each head, slice and span: a warpgroup of which one thread copies and three warps
// sum gates, and a warpgroup for each 64 channels of values.
template <typename T, int K, int kSlice, bool kDecay>
__global__ void __launch_bounds__(hopper::kWarpgroup*(1 + kSlice / 64), 1)
    WalkSpans(const __grid_constant__ Sm90Maps maps, const __grid_constant__ Sm90Params p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using Memory = WalkMemory<K, kSlice>;
  constexpr int kConsumers = kSlice / 64;
  extern __shared__ __align__(1024) unsigned char raw_memory[];
  Memory& memory = *reinterpret_cast<Memory*>(raw_memory);
  const int slices = p.V / kSlice;
  const int head = static_cast<int>(blockIdx.x) % p.heads;
  const int slice = static_cast<int>(blockIdx.x) / p.heads % slices;
  const Sm90Span span = p.Span(static_cast<int>(blockIdx.x) / p.heads / slices);
  const int chunks = (span.tokens + kSm90Chunk - 1) / kSm90Chunk;
  if (threadIdx.x == 0) {
    for (auto& of_parity : memory.non_finite) {
      for (int& number : of_parity) number = 0;
    }
    for (int i = 0; i < Memory::kStages; ++i) {
      memory.full[i].Initialise(FullArrivals(kDecay));
      memory.empty[i].Initialise(kConsumers * hopper::kWarpgroup);
    }
    hopper::PublishBarriers();
  }
  __syncthreads();

  if (threadIdx.x < hopper::kWarpgroup) {
    hopper::GiveUpRegisters<24>();
    hopper::RingPosition<Memory::kStages> at;
    if (threadIdx.x == 0) {
      for (int c = 0; c < chunks; ++c, at.Advance()) {
        hopper::Barrier& full = memory.full[at.stage()];
        memory.empty[at.stage()].Wait(at.phase() ^ 1);
        full.ArriveExpecting(sizeof(WalkStage<K, kSlice>));
        const int token = span.begin + c * kSm90Chunk;
        auto& stage = memory.stages[at.stage()];
#pragma unroll
        for (int i = 0; i < K / 64; ++i) {
          hopper::LoadTile(maps.q, {i * 64, head / p.group_q, token, span.row}, stage.queries[i],
                           full);
          hopper::LoadTile(maps.k, {i * 64, head / p.group_k, token, span.row}, stage.keys[i],
                           full);
        }
#pragma unroll
        for (int i = 0; i < kSlice / 64; ++i) {
          hopper::LoadTile(maps.v, {slice * kSlice + i * 64, head / p.group_v, token, span.row},
                           stage.values[i], full);
        }
      }
    } else if (kDecay && threadIdx.x >= 32) {
      ProduceGates<Memory::kStages>(p, span, head, static_cast<int>(threadIdx.x) / 32 - 1, 3,
                                    memory.gates, memory.full, memory.empty);
    }
  } else {
    hopper::TakeRegisters<240>();
    Walker<T, K, kSlice, kDecay>(maps, p, span, head, slice, memory).Run();
  }
#endif
}

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CORES_RECURRENT_SM90_WALK_CUH_
