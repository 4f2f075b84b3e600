// The recurrence of a step, token by token with the state in registers: what one token computes
// does not depend on how many came with it, so that a prompt and a decode agree in every bit.
//
//   S = S e^g;  u = v, or beta (v - S^T k) for the delta rule;  S += k u^T;  y = S^T q
#include "kernels/cuda/launch.h"
#include "kernels/decode/cuda/step_kernels.h"

namespace attnd::decode {
namespace {

constexpr int kThreads = 128;
constexpr int kParts = 4;                    // Lanes that share a column of values.
constexpr int kColumns = kThreads / kParts;  // Columns of a block.
constexpr int kTokens = 8;                   // Staged together.

__device__ float SumParts(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

__device__ float Sum(float4 a) { return (a.x + a.y) + (a.z + a.w); }
__device__ void MulAdd(float4 a, float4 b, float4& sum) {
  sum.x = fmaf(a.x, b.x, sum.x);
  sum.y = fmaf(a.y, b.y, sum.y);
  sum.z = fmaf(a.z, b.z, sum.z);
  sum.w = fmaf(a.w, b.w, sum.w);
}

// The last inputs of every convolution, one thread a channel: oldest first.
__device__ void KeepInputs(const RecurrenceParams& p, const StepSegment& segment, float* state,
                           int64_t channel) {
  for (int c = 0; c < p.convolution_count; ++c) {
    const DeviceConvolution conv = p.convolutions[c];
    if (channel >= conv.channels) {
      channel -= conv.channels;
      continue;
    }
    float* own = state + conv.state + channel;
    const int kept = conv.taps - 1;
    for (int j = 0; j < kept; ++j) {
      // Counted from the first row of the step; before it, the state's own inputs, moved up.
      const int row = segment.count - kept + j;
      own[static_cast<int64_t>(j) * conv.channels] =
          row >= 0 ? p.raw[(segment.row + row) * p.stride + conv.at + channel]
                   : own[static_cast<int64_t>(j + segment.count) * conv.channels];
    }
    return;
  }
}

// kQuads: float4s of a thread, which holds keys 4 (part + 4 i) and on of one column.
template <int kQuads, bool kDelta, bool kVector>
__global__ void __launch_bounds__(kThreads)
    RecurrenceKernel(StepTables tables, RecurrenceParams p, int tiles) {
  constexpr int kKeys = kQuads * kKeyPad;
  __shared__ float4 q[kTokens][kKeys / 4], k[kTokens][kKeys / 4],
      g[kVector ? kTokens : 1][kKeys / 4];
  const StepSegment segment = tables.segments[blockIdx.y];
  if (segment.count == 0) return;
  float* fixed = tables.fixed[p.layer * tables.segment_count + blockIdx.y];
  const int blocks = p.heads * tiles;
  if (blockIdx.x >= blocks) {
    const int64_t channel = (blockIdx.x - blocks) * kThreads + threadIdx.x;
    if (channel < p.convolved) KeepInputs(p, segment, fixed, channel);
    return;
  }
  const int head = blockIdx.x / tiles;
  const int column = blockIdx.x % tiles * kColumns + threadIdx.x / kParts;
  const int part = threadIdx.x % kParts;
  const int columns = p.value_size + (p.normalise ? 1 : 0);
  const bool live = column < columns, ones = column == p.value_size;
  float4* state = reinterpret_cast<float4*>(
      fixed + (static_cast<int64_t>(head) * columns + column) * p.key_pad);
  float4 s[kQuads];
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
    s[i] = live && (part + 4 * i) * 4 < p.key_pad ? state[part + 4 * i] : float4{};
  }
  const float* first = p.rows + segment.row * p.stride;
  const auto own = [&](int count) { return head / (p.heads / count); };
  const float* from_q = first + p.q + own(p.query_heads) * p.key_size;
  const float* from_k = first + p.k + own(p.key_heads) * p.key_size;
  const float* from_v = first + p.v + own(p.value_heads) * p.value_size + column;
  const float* from_g = first + p.g + head * (kVector ? p.key_size : 1);
  float* y = p.y + segment.row * p.y_stride +
             (ones ? p.heads * p.value_size + head : head * p.value_size + column);
  for (int begin = 0; begin < segment.count; begin += kTokens) {
    const int count = min(kTokens, segment.count - begin);
    __syncthreads();
    for (int i = threadIdx.x; i < count * kKeys; i += kThreads) {
      const int t = i / kKeys, c = i % kKeys;
      const int64_t at = (begin + t) * p.stride + c;
      const bool inside = c < p.key_size;
      reinterpret_cast<float*>(q[t])[c] = inside ? from_q[at] : 0.0f;
      reinterpret_cast<float*>(k[t])[c] = inside ? from_k[at] : 0.0f;
      if constexpr (kVector) reinterpret_cast<float*>(g[t])[c] = inside ? expf(from_g[at]) : 1.0f;
    }
    __syncthreads();
    for (int t = 0; t < count; ++t) {
      const int64_t at = (begin + t) * p.stride;
      float u = 0;
      if (live) u = ones ? 1.0f : from_v[at];
      if constexpr (kVector) {
#pragma unroll
        for (int i = 0; i < kQuads; ++i) {
          const float4 e = g[t][part + 4 * i];
          s[i] = {s[i].x * e.x, s[i].y * e.y, s[i].z * e.z, s[i].w * e.w};
        }
      } else if (p.decay != Decay::kNone) {
        const float e = expf(from_g[at]);
#pragma unroll
        for (int i = 0; i < kQuads; ++i) s[i] = {s[i].x * e, s[i].y * e, s[i].z * e, s[i].w * e};
      }
      if constexpr (kDelta) {
        float4 sum = {};
#pragma unroll
        for (int i = 0; i < kQuads; ++i) MulAdd(s[i], k[t][part + 4 * i], sum);
        u = first[at + p.beta + head] * (u - SumParts(Sum(sum)));
      }
      float4 sum = {};
#pragma unroll
      for (int i = 0; i < kQuads; ++i) {
        MulAdd(k[t][part + 4 * i], {u, u, u, u}, s[i]);
        MulAdd(s[i], q[t][part + 4 * i], sum);
      }
      const float value = SumParts(Sum(sum));
      if (live && part == 0) y[(begin + t) * p.y_stride] = value;
    }
  }
#pragma unroll
  for (int i = 0; i < kQuads; ++i) {
    if (live && (part + 4 * i) * 4 < p.key_pad) state[part + 4 * i] = s[i];
  }
}

template <int kQuads>
cudaError_t Launch(const StepTables& tables, int64_t segments, const RecurrenceParams& p,
                   cudaStream_t stream) {
  const int columns = p.value_size + (p.normalise ? 1 : 0);
  const int tiles = cuda::CeilDiv(columns, kColumns);
  const int64_t keepers = cuda::CeilDiv<int64_t>(p.convolved, kThreads);
  const dim3 grid(static_cast<unsigned>(p.heads * tiles + keepers),
                  static_cast<unsigned>(segments));
  const bool vector = p.decay == Decay::kVector;
  const auto kernel =
      p.delta
          ? (vector ? RecurrenceKernel<kQuads, true, true> : RecurrenceKernel<kQuads, true, false>)
          : (vector ? RecurrenceKernel<kQuads, false, true>
                    : RecurrenceKernel<kQuads, false, false>);
  kernel<<<grid, kThreads, 0, stream>>>(tables, p, tiles);
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchRecurrence(const StepTables& tables, int64_t segments,
                             const RecurrenceParams& params, cudaStream_t stream) {
  const int64_t quads = params.key_pad / kKeyPad;
  if (quads <= 1) return Launch<1>(tables, segments, params, stream);
  if (quads <= 2) return Launch<2>(tables, segments, params, stream);
  if (quads <= 4) return Launch<4>(tables, segments, params, stream);
  if (quads <= 8) return Launch<8>(tables, segments, params, stream);
  if (quads <= 16) return Launch<16>(tables, segments, params, stream);
  return Launch<20>(tables, segments, params, stream);
}

}  // namespace attnd::decode
