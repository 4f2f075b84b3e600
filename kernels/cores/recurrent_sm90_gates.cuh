// A chunk's decays, worked out by some warps while others multiply.
//
// The decay between two tokens is 2^(G_t - G_s), G the sums of log2 gates since the chunk's start,
// summed in float64 and kept in two floats, so that nothing cancels. A gate so strong that nothing
// in float32 survives it (-inf too) is kept out of the sums: it is a restart, and the decay across
// one is exactly zero. All other differences are of finite numbers.
#ifndef ATTND_KERNELS_CORES_RECURRENT_SM90_GATES_CUH_
#define ATTND_KERNELS_CORES_RECURRENT_SM90_GATES_CUH_

#include "kernels/cores/recurrent_sm90_params.cuh"
#include "kernels/cuda/hopper/mbarrier.cuh"

namespace attnd::cuda {

__device__ inline float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

struct alignas(16) Sm90Gates {
  float2 sums[kSm90Chunk];  // G, high and low part.
  int restart[kSm90Chunk];  // The last token up to this one that is a restart, or -1.
  float since[kSm90Chunk];  // From the chunk's start to the token, times the call's scale.
  float until[kSm90Chunk];  // From the token to the chunk's end.
  float end;                // Over the whole chunk.
};

// Arrivals at a full stage's barrier: the copying thread's, and those of the warp that sums gates.
__host__ __device__ constexpr uint32_t FullArrivals(bool has_decay) { return has_decay ? 33 : 1; }

// Works out the gates of a span's chunks for a ring of stages, chunk c into tables[c mod kStages].
// By the whole of each of `warps` warps, this one the `warp`th; every chunk is one warp's, which
// has the time of several to wait for its gates and to sum them.
template <int kStages>
__device__ void ProduceGates(const Sm90Params& p, const Sm90Span& span, int head, int warp,
                             int warps, Sm90Gates* tables, hopper::Barrier* full,
                             hopper::Barrier* empty) {
  constexpr float kNothingLeft = -128;  // e^-128 is below the smallest float32.
  constexpr double kLog2E = 1.4426950408889634;
  constexpr unsigned kAll = 0xffffffffu;
  const int lane = threadIdx.x % 32;
  const int64_t stride = p.per_token ? p.gate_heads : 0;
  const float* g = p.g + head;
  if (p.per_token) {
    g = p.g + (span.row * p.tokens + span.begin) * p.gate_heads + head / (p.heads / p.gate_heads);
  }
  const int chunks = (span.tokens + kSm90Chunk - 1) / kSm90Chunk;
  for (int c = warp; c < chunks; c += warps) {
    // Tokens 2 l and 2 l + 1 of the chunk.
    const int token = c * kSm90Chunk + 2 * lane;
    const float gates[2] = {token < span.tokens ? g[token * stride] : 0.0f,
                            token + 1 < span.tokens ? g[(token + 1) * stride] : 0.0f};
    // Written so that NaN is no restart.
    const bool restarts[2] = {gates[0] <= kNothingLeft, gates[1] <= kNothingLeft};
    const double first = restarts[0] ? 0.0 : gates[0] * kLog2E;
    double sum = first + (restarts[1] ? 0.0 : gates[1] * kLog2E);
    int restart = restarts[1] ? 2 * lane + 1 : restarts[0] ? 2 * lane : -1;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const double sum_before = __shfl_up_sync(kAll, sum, distance);
      const int restart_before = __shfl_up_sync(kAll, restart, distance);
      if (lane >= distance) {
        sum += sum_before;
        restart = max(restart, restart_before);
      }
    }
    const double total = __shfl_sync(kAll, sum, 31);
    const int last_restart = __shfl_sync(kAll, restart, 31);
    double earlier_sum = __shfl_up_sync(kAll, sum, 1);
    int earlier_restart = __shfl_up_sync(kAll, restart, 1);
    if (lane == 0) earlier_sum = 0, earlier_restart = -1;

    const int stage = c % kStages;
    Sm90Gates& out = tables[stage];
    empty[stage].Wait((c / kStages & 1) ^ 1);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int t = 2 * lane + i;
      const double at = i == 0 ? earlier_sum + first : sum;
      const int restart_at = i == 1 ? restart : restarts[0] ? t : earlier_restart;
      const auto high = static_cast<float>(at);
      out.sums[t] = make_float2(high, static_cast<float>(at - high));
      out.restart[t] = restart_at;
      out.since[t] = restart_at >= 0 ? 0.0f : Exp2(high) * p.scale;
      out.until[t] = t < last_restart ? 0.0f : Exp2(static_cast<float>(total - at));
    }
    if (lane == 0) out.end = last_restart >= 0 ? 0.0f : Exp2(static_cast<float>(total));
    full[stage].Arrive();
  }
}

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CORES_RECURRENT_SM90_GATES_CUH_
