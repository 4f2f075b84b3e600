// The kernels behind flow attention's weights. All of the operator but its sums sits in two numbers
// for each token (flow_attention.cc has the equations): comp, the weight of a value, and alloc I,
// that of an output. They come from sums of [K] vectors, taken over chunks of tokens at once; the
// chunks' sums are added up in order, and every chunk goes on from there, one warp for each head.
// Sums are float64: they grow with the tokens, while what is read from them is a ratio.
#ifndef ATTND_KERNELS_OPS_FLOW_ATTENTION_FLOW_KERNELS_CUH_
#define ATTND_KERNELS_OPS_FLOW_ATTENTION_FLOW_KERNELS_CUH_

#include <cstdint>

#include "kernels/cores/feature_maps.cuh"
#include "kernels/cuda/elements.cuh"

namespace attnd::cuda::flow {

inline constexpr int kWarp = 32;
inline constexpr int kThreads = 128;
inline constexpr int kWarps = kThreads / kWarp;
inline constexpr int kChunk = 64;
inline constexpr int kMaxKeySize = 256;
inline constexpr int kPerLane = kMaxKeySize / kWarp;

// Tokens [begin, begin + count) of a batch row; `before` tokens of the sequence come first.
struct Chunk {
  int64_t row;
  int64_t begin;
  int64_t count;
  int64_t before;
  int64_t run;
};

// The chunks of one sequence.
struct Run {
  int64_t first_chunk;
  int64_t chunks;
  int64_t state;
  int64_t tokens;
};

// Queries or keys.
struct Side {
  Elements x;      // [B,N,H,K]
  int64_t tokens;  // N
  const Chunk* chunks;
  const Run* runs;
  int64_t n_chunks;
  double* sums[2];  // [chunks,H,K] of phi(x), and of phi(x) flow.
  float* flow;      // [B,H,N]: I or O.
  float* weight;    // [B,H,N]: alloc I (queries); source, exp(source) or comp (keys).

  __device__ int64_t WeightAt(const Chunk& chunk, int i, int heads, int head) const {
    return (chunk.row * heads + head) * tokens + chunk.begin + i;
  }
};

enum { kQueries = 0, kKeys = 1 };

struct Arguments {
  Side sides[2];
  FeatureMap map;
  bool causal;
  int heads;
  int key_size;
  double eps;
  double clamp;
  double ratio;          // T/S, or 1 if causal.
  double* exp_sums;      // [chunks,H] of exp(source), if causal.
  const int64_t* count;  // [M]: tokens seen before the call; null: 0.
};

__device__ inline double SumOverWarp(double x) {
  for (int step = kWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

// A row's channels lane, lane + 32, ... of phi(x); 0 beyond the last.
__device__ inline void LoadFeatures(const Arguments& a, const Side& side, int64_t row,
                                    int64_t token, int head, float (&features)[kPerLane]) {
  const int64_t at = ((row * side.tokens + token) * a.heads + head) * a.key_size;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int c = i * kWarp + threadIdx.x % kWarp;
    features[i] = c < a.key_size ? ApplyToElement(a.map, side.x.Load(at + c)) : 0.0f;
  }
}

// One chunk of one head of one side. Stage 0 sums up phi(x). Stage 1: with the other side's sums of
// stage 0, the flows I and O, and the sums of phi(x) flow. Stage 2: with the other side's sums of
// stage 1, the weights.
template <int kStage>
__global__ void __launch_bounds__(kThreads) FlowKernel(const __grid_constant__ Arguments a) {
  const int lane = threadIdx.x % kWarp;
  const int own_side = blockIdx.y;
  const Side& own = a.sides[own_side];
  const Side& other = a.sides[1 - own_side];
  const int64_t unit = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  const int64_t chunk_index = unit / a.heads;
  const int head = static_cast<int>(unit % a.heads);
  if (chunk_index >= own.n_chunks) return;
  const Chunk chunk = own.chunks[chunk_index];
  const auto record = [&](int64_t index) { return (index * a.heads + head) * a.key_size; };

  double sum[kPerLane] = {};
  double others[kPerLane] = {};  // Of the other side, up to the token if causal, else over all.
  if constexpr (kStage > 0) {
    // Both sides of a causal call have the same chunks.
    const int64_t from = a.causal ? chunk_index : other.runs[chunk.run].first_chunk;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int c = i * kWarp + lane;
      if (c < a.key_size) others[i] = other.sums[kStage - 1][record(from) + c];
    }
  }
  const int64_t seen =
      a.count != nullptr ? a.count[own.runs[chunk.run].state] + chunk.before : chunk.before;
  double exp_sum = 0;
  for (int t = 0; t < chunk.count; ++t) {
    const int64_t at = own.WeightAt(chunk, t, a.heads, head);
    float features[kPerLane];
    LoadFeatures(a, own, chunk.row, chunk.begin + t, head, features);
    double factor = 1;
    if constexpr (kStage > 0) {
      if (a.causal) {
        float other_features[kPerLane];
        LoadFeatures(a, other, chunk.row, chunk.begin + t, head, other_features);
        const double flow = kStage == 1 ? 1.0 : other.flow[at];
#pragma unroll
        for (int i = 0; i < kPerLane; ++i) others[i] += flow * other_features[i];
      }
      double dot = 0;
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) {
        if (i * kWarp + lane < a.key_size) dot += (features[i] + a.eps) * (others[i] + a.eps);
      }
      dot = SumOverWarp(dot);
      const double n = a.causal ? static_cast<double>(seen + t + 1) : 1.0;
      if constexpr (kStage == 1) {
        factor = n / dot;
        if (lane == 0) own.flow[at] = static_cast<float>(factor);
      } else if (own_side == kQueries) {
        const double allocation = 1.0 / (1.0 + exp(-dot / n * a.ratio));
        if (lane == 0) own.weight[at] = static_cast<float>(allocation * own.flow[at] / n);
      } else {
        double source = dot / n;
        if (a.clamp > 0 && source > a.clamp) source = a.clamp;
        if (a.clamp > 0 && source < -a.clamp) source = -a.clamp;
        if (a.causal) source = exp(source);
        exp_sum += source;
        if (lane == 0) own.weight[at] = static_cast<float>(source);
      }
    }
    if constexpr (kStage < 2) {
#pragma unroll
      for (int i = 0; i < kPerLane; ++i) sum[i] += factor * features[i];
    }
  }
  if constexpr (kStage < 2) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int c = i * kWarp + lane;
      if (c < a.key_size) own.sums[kStage][record(chunk_index) + c] = sum[i];
    }
  } else if (own_side == kKeys && a.causal && lane == 0) {
    a.exp_sums[chunk_index * a.heads + head] = exp_sum;
  }
}

// What the chunks of a run add up to, for `width` numbers of each head.
struct Scan {
  double* sums;          // [chunks,width]
  const float* initial;  // [M,width]; null: zeros.
  float* final_sums;     // [M,width]; null: not wanted.
};

// Causal: every chunk's sums become those of all tokens before it. Otherwise the first chunk's
// become those of all tokens.
__global__ void __launch_bounds__(kThreads)
    ScanKernel(Scan queries, Scan keys, const Run* query_runs, const Run* key_runs, int64_t n_runs,
               int64_t width, bool causal) {
  const Scan scan = blockIdx.y == kQueries ? queries : keys;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= n_runs * width) return;
  const Run run = (blockIdx.y == kQueries ? query_runs : key_runs)[i / width];
  const int64_t column = i % width;
  double sum = scan.initial != nullptr ? scan.initial[run.state * width + column] : 0.0;
  double* const first = scan.sums + run.first_chunk * width + column;
  constexpr int kAhead = 8;  // Loads in flight: what is stored never changes what is read next.
  for (int64_t base = 0; base < run.chunks; base += kAhead) {
    double parts[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      parts[j] = base + j < run.chunks ? first[(base + j) * width] : 0.0;
    }
#pragma unroll
    for (int j = 0; j < kAhead; ++j) {
      if (causal && base + j < run.chunks) first[(base + j) * width] = sum;
      sum += parts[j];
    }
  }
  if (!causal && run.chunks > 0) *first = sum;
  if (scan.final_sums != nullptr)
    scan.final_sums[run.state * width + column] = static_cast<float>(sum);
}

// Not causal: comp = S softmax(source) of one head, in place.
__global__ void __launch_bounds__(kThreads) CompeteKernel(float* weight, int64_t keys) {
  __shared__ float parts[kThreads];
  float* const source = weight + blockIdx.x * keys;
  const auto reduce = [&](float own, auto combine) {
    __syncthreads();
    parts[threadIdx.x] = own;
    for (int half = kThreads / 2; half > 0; half /= 2) {
      __syncthreads();
      if (threadIdx.x < half) {
        parts[threadIdx.x] = combine(parts[threadIdx.x], parts[threadIdx.x + half]);
      }
    }
    __syncthreads();
    return parts[0];
  };
  float top = -INFINITY;
  for (int64_t j = threadIdx.x; j < keys; j += kThreads) top = fmaxf(top, source[j]);
  top = reduce(top, [](float x, float y) { return fmaxf(x, y); });
  float sum = 0;
  for (int64_t j = threadIdx.x; j < keys; j += kThreads) sum += expf(source[j] - top);
  sum = reduce(sum, [](float x, float y) { return x + y; });
  const float scale = static_cast<float>(keys) / sum;
  for (int64_t j = threadIdx.x; j < keys; j += kThreads) source[j] = expf(source[j] - top) * scale;
}

// What the linear recurrence sums up: alloc (I/n) phi(q), phi(k) and comp v, all float32.
struct Sources {
  Elements v;
  float* q;
  float* k;
  float* weighted_v;
  int value_size;
};

// Causal: comp of one chunk of one head, then its sources.
__global__ void __launch_bounds__(kThreads)
    SourceKernel(const __grid_constant__ Arguments a, const __grid_constant__ Sources out) {
  __shared__ float competition[kWarps][kChunk];
  const int lane = threadIdx.x % kWarp;
  float* const comp = competition[threadIdx.x / kWarp];
  const Side& keys = a.sides[kKeys];
  const Side& queries = a.sides[kQueries];
  const int64_t unit = int64_t{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  const int64_t chunk_index = unit / a.heads;
  const int head = static_cast<int>(unit % a.heads);
  if (chunk_index >= keys.n_chunks) return;
  const Chunk chunk = keys.chunks[chunk_index];
  const int64_t seen =
      a.count != nullptr ? a.count[keys.runs[chunk.run].state] + chunk.before : chunk.before;

  double sum = a.exp_sums[chunk_index * a.heads + head];
  for (int base = 0; base < chunk.count; base += kWarp) {
    const int t = base + lane;
    const float strength =
        t < chunk.count ? keys.weight[keys.WeightAt(chunk, t, a.heads, head)] : 0.0f;
    double up_to = strength;  // Sum over the lanes up to this one.
    for (int step = 1; step < kWarp; step *= 2) {
      const double lower = __shfl_up_sync(~0u, up_to, step);
      if (lane >= step) up_to += lower;
    }
    if (t < chunk.count) {
      comp[t] = static_cast<float>(static_cast<double>(seen + t + 1) * strength / (sum + up_to));
    }
    sum += __shfl_sync(~0u, up_to, kWarp - 1);
  }
  __syncwarp();
  for (int t = 0; t < chunk.count; ++t) {
    const int64_t token = chunk.row * keys.tokens + chunk.begin + t;
    const int64_t key_at = (token * a.heads + head) * a.key_size;
    const float allocation = queries.weight[queries.WeightAt(chunk, t, a.heads, head)];
    for (int c = lane; c < a.key_size; c += kWarp) {
      out.q[key_at + c] = allocation * ApplyToElement(a.map, queries.x.Load(key_at + c));
      out.k[key_at + c] = ApplyToElement(a.map, keys.x.Load(key_at + c));
    }
    const int64_t value_at = (token * a.heads + head) * out.value_size;
    for (int c = lane; c < out.value_size; c += kWarp) {
      out.weighted_v[value_at + c] = comp[t] * out.v.Load(value_at + c);
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    CountKernel(const int64_t* count, const Run* runs, int64_t n_runs, int64_t* final_count) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= n_runs) return;
  final_count[runs[i].state] = (count != nullptr ? count[runs[i].state] : 0) + runs[i].tokens;
}

}  // namespace attnd::cuda::flow

#endif  // ATTND_KERNELS_OPS_FLOW_ATTENTION_FLOW_KERNELS_CUH_
