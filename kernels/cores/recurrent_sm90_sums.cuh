// Sums of units on their own, and the states before units: what lets one sequence's units be walked
// at the same time.
#ifndef ATTND_KERNELS_CORES_RECURRENT_SM90_SUMS_CUH_
#define ATTND_KERNELS_CORES_RECURRENT_SM90_SUMS_CUH_

#include "kernels/cores/recurrent_sm90_state.cuh"
#include "kernels/cuda/hopper/dependent_launch.cuh"

namespace attnd::cuda {

template <int K, int kSlice>
struct SumsStage {
  alignas(1024) unsigned char keys[K / 64][kSm90TileBytes];
  unsigned char values[kSlice / 64][kSm90TileBytes];
};

template <int K, int kSlice>
struct SumsMemory {
  static constexpr int kStages = K + kSlice > 192 ? 5 : 6;
  SumsStage<K, kSlice> stages[kStages];
  Sm90Gates gates[kStages];
  hopper::Barrier full[kStages], empty[kStages];
};

// One block for each head, slice and summed span: a warpgroup of which one thread copies and three
// warps sum gates, and a warpgroup for each 64 channels of values.
template <typename T, int K, int kSlice, bool kDecay>
__global__ void __launch_bounds__(hopper::kWarpgroup*(1 + kSlice / 64), 1)
    SumUnits(const __grid_constant__ Sm90Maps maps, const __grid_constant__ Sm90Params p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using Memory = SumsMemory<K, kSlice>;
  constexpr int kConsumers = kSlice / 64;
  extern __shared__ __align__(1024) unsigned char raw_memory[];
  Memory& memory = *reinterpret_cast<Memory*>(raw_memory);
  const int slices = p.V / kSlice;
  const int head = static_cast<int>(blockIdx.x) % p.heads;
  const int slice = static_cast<int>(blockIdx.x) / p.heads % slices;
  const Sm90Span span = p.spans[p.summed[static_cast<int>(blockIdx.x) / p.heads / slices]];
  const int chunks = span.tokens / kSm90Chunk;  // Only a sequence's last span ends unevenly.
  if (threadIdx.x == 0) {
    for (int i = 0; i < Memory::kStages; ++i) {
      memory.full[i].Initialise(FullArrivals(kDecay));
      memory.empty[i].Initialise(kConsumers * hopper::kWarpgroup);
    }
    hopper::PublishBarriers();
  }
  __syncthreads();
  hopper::AllowNextKernel();
  hopper::RingPosition<Memory::kStages> at;
  const int lane = threadIdx.x % 32;

  if (threadIdx.x < 32) {
    if (lane != 0) return;
    for (int c = 0; c < chunks; ++c, at.Advance()) {
      hopper::Barrier& full = memory.full[at.stage()];
      memory.empty[at.stage()].Wait(at.phase() ^ 1);
      full.ArriveExpecting(sizeof(SumsStage<K, kSlice>));
      const int token = span.begin + c * kSm90Chunk;
      auto& stage = memory.stages[at.stage()];
#pragma unroll
      for (int i = 0; i < K / 64; ++i) {
        hopper::LoadTile(maps.k, {i * 64, head / p.group_k, token, span.row}, stage.keys[i], full);
      }
#pragma unroll
      for (int i = 0; i < kSlice / 64; ++i) {
        hopper::LoadTile(maps.v, {slice * kSlice + i * 64, head / p.group_v, token, span.row},
                         stage.values[i], full);
      }
    }
    return;
  }
  if (threadIdx.x < hopper::kWarpgroup) {
    if constexpr (kDecay) {
      ProduceGates<Memory::kStages>(p, span, head, static_cast<int>(threadIdx.x) / 32 - 1, 3,
                                    memory.gates, memory.full, memory.empty);
    }
    return;
  }

  const int warpgroup = static_cast<int>(threadIdx.x) / hopper::kWarpgroup - 1;
  const int thread = static_cast<int>(threadIdx.x) % hopper::kWarpgroup;
  for (int unit = 0; unit < chunks / span.unit; ++unit) {
    float s[K / 2];
#pragma unroll
    for (int i = 0; i < K / 2; ++i) s[i] = 0;
    float decay = 1;
    for (int c = 0; c < span.unit; ++c, at.Advance()) {
      auto& stage = memory.stages[at.stage()];
      const Sm90Gates& gates = memory.gates[at.stage()];
      memory.full[at.stage()].Wait(at.phase());
      AddChunk<T, K, kDecay>(thread, hopper::SharedAddress(stage.keys),
                             hopper::SharedAddress(stage.values[warpgroup]), gates, s);
      if constexpr (kDecay) decay *= gates.end;
      hopper::WaitForProducts<0>();
      hopper::Settle(s);
      memory.empty[at.stage()].Arrive();
    }
    const int slot = span.slot + unit;
    UnitState<K>(p, p.unit_sums, slot, head, slice, warpgroup, thread).Store(s);
    if (thread == 0 && warpgroup == 0 && slice == 0) p.unit_decays[slot * p.heads + head] = decay;
  }
#endif
}

// States before units from the sums of those before: one thread for four elements of one head.
template <int K, int kSlice>
__global__ void __launch_bounds__(256) ChainUnits(const __grid_constant__ Sm90Params p) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  constexpr int kAhead = 8;
  constexpr int kPieces = K * kSlice / 4;  // Of one head's slice.
  hopper::AllowNextKernel();
  const int slices = p.V / kSlice;
  const int block = static_cast<int>(blockIdx.x) / (kPieces / 256);
  const int piece =
      static_cast<int>(blockIdx.x) % (kPieces / 256) * 256 + static_cast<int>(threadIdx.x);
  const int head = block % p.heads, slice = block / p.heads % slices;
  const Sm90Chain chain = p.chains[block / p.heads / slices];
  // Piece i of thread t of warpgroup w lies at w kPieces / (kSlice / 64) + 128 i + t.
  constexpr int kOfWarpgroup = K * kSm90Values / 4;
  const int warpgroup = piece / kOfWarpgroup, thread = piece % hopper::kWarpgroup,
            first = piece % kOfWarpgroup / hopper::kWarpgroup * 4;
  float4 state = make_float4(0, 0, 0, 0);
  if (p.initial_state != nullptr) {
    const float* from = p.initial_state + (int64_t{chain.state} * p.heads + head) * K * p.V +
                        slice * kSlice + warpgroup * kSm90Values;
    ForState<K>(thread, [&](int i, int k, int v) {
      if (i / 4 * 4 != first) return;
      (&state.x)[i % 4] = from[int64_t{k} * p.V + v];
    });
  }
  hopper::AwaitPreviousKernel();
  const auto at = [&](float* units, int i) {
    const int64_t unit = (int64_t{chain.slot + i} * p.heads + head) * slices + slice;
    return reinterpret_cast<float4*>(units + unit * K * kSlice) + piece;
  };
  for (int begin = 0; begin < chain.units; begin += kAhead) {
    float4 sums[kAhead];
    float decays[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (begin + i >= chain.units) continue;
      sums[i] = __ldcg(at(p.unit_sums, begin + i));
      decays[i] = __ldcg(p.unit_decays + (chain.slot + begin + i) * p.heads + head);
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (begin + i >= chain.units) continue;
      state.x = fmaf(decays[i], state.x, sums[i].x);
      state.y = fmaf(decays[i], state.y, sums[i].y);
      state.z = fmaf(decays[i], state.z, sums[i].z);
      state.w = fmaf(decays[i], state.w, sums[i].w);
      *at(p.unit_states, begin + i + 1) = state;
    }
  }
#endif
}

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CORES_RECURRENT_SM90_SUMS_CUH_
