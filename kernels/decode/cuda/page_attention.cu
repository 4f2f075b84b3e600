// Softmax attention of single rows over the pages of their sequences: a block for each row and
// head. Page i is warp i mod 4's, which meets its pages in order; the warps' sums are joined in
// order at the end. All of it depends on positions alone.
#include "kernels/cuda/launch.h"
#include "kernels/decode/cuda/step_kernels.h"
#include "kernels/decode/step_engine.h"

namespace attnd::decode {
namespace {

constexpr int kWarp = 32;
constexpr int kWarps = 4;
constexpr int kThreads = kWarp * kWarps;
constexpr int kLanes = 8;
constexpr int kMostColumns = kMostHeadSize / kWarp;  // Of a lane.
constexpr int kPage = static_cast<int>(kPagePositions);

__device__ float WarpMax(float x) {
#pragma unroll
  for (int d = kWarp / 2; d > 0; d /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, d));
  return x;
}
__device__ float WarpSum(float x) {
#pragma unroll
  for (int d = kWarp / 2; d > 0; d /= 2) x += __shfl_xor_sync(~0u, x, d);
  return x;
}

// A running softmax: maximum, sum of exponentials, weighted values by lane.
struct Running {
  float most = -INFINITY;
  float sum = 0;
  float o[kMostColumns] = {};
};

__global__ void __launch_bounds__(kThreads) AttentionKernel(StepTables tables, AttentionParams p) {
  __shared__ float q[kMostHeadSize];
  __shared__ float most[kWarps], sums[kWarps], o[kWarps][kMostHeadSize], weights[kWarps][kPage];
  const StepRow own = tables.rows[blockIdx.x];
  if (own.segment < 0) return;
  const int head = blockIdx.y, size = p.head_size, kv = head / (p.heads / p.kv_heads);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const float* row = p.rows + blockIdx.x * p.stride + head * size;
  for (int i = threadIdx.x; i < size; i += kThreads) q[i] = row[i];
  __syncthreads();

  const PageRun run = tables.page_runs[p.paged_layer * tables.segment_count + own.segment];
  const int first = p.window > 0 ? max(0, own.position - p.window + 1) : 0;
  const int first_page = first / kPage, last_page = own.position / kPage;
  Running r;
  // This warp's first page that is not before the window.
  int page = first_page + (warp - first_page % kWarps + kWarps) % kWarps;
  for (; page <= last_page; page += kWarps) {
    const float* keys = tables.pages[run.begin + page - run.first] + kv * kPage * size;
    const float* values = keys + p.kv_heads * kPage * size;
    // kLanes lanes take one key's product together, so that they read it side by side.
#pragma unroll 4
    for (int i = 0; i < kPage; i += kWarp / kLanes) {
      const int slot = i + lane / kLanes;
      const float* key = keys + slot * size;
      float4 sum = {};
      for (int c = lane % kLanes * 4; c < size; c += kLanes * 4) {
        const float4 a = *reinterpret_cast<const float4*>(q + c);
        const float4 b = *reinterpret_cast<const float4*>(key + c);
        sum.x = fmaf(a.x, b.x, sum.x);
        sum.y = fmaf(a.y, b.y, sum.y);
        sum.z = fmaf(a.z, b.z, sum.z);
        sum.w = fmaf(a.w, b.w, sum.w);
      }
      float dot = (sum.x + sum.y) + (sum.z + sum.w);
#pragma unroll
      for (int d = 1; d < kLanes; d *= 2) dot += __shfl_xor_sync(~0u, dot, d);
      const int position = page * kPage + slot;
      if (lane % kLanes == 0) {
        weights[warp][slot] = position < first || position > own.position ? -INFINITY : dot;
      }
    }
    __syncwarp();
    float s[2] = {weights[warp][lane], weights[warp][kWarp + lane]};
    const float top = fmaxf(r.most, WarpMax(fmaxf(s[0], s[1])));
    const float fade = expf(r.most - top);  // 0 for the first page.
    s[0] = expf(s[0] - top);
    s[1] = expf(s[1] - top);
    weights[warp][lane] = s[0];
    weights[warp][kWarp + lane] = s[1];
    __syncwarp();
    r.most = top;
    r.sum = r.sum * fade + WarpSum(s[0] + s[1]);
#pragma unroll
    for (int c = 0; c < kMostColumns; ++c) r.o[c] *= fade;
    const int begin = max(first - page * kPage, 0),
              end = min(own.position - page * kPage + 1, kPage);
#pragma unroll 8
    for (int slot = begin; slot < end; ++slot) {
      const float weight = weights[warp][slot];
#pragma unroll
      for (int c = 0; c < kMostColumns; ++c) {
        const int column = c * kWarp + lane;
        if (column < size) r.o[c] = fmaf(weight, values[slot * size + column], r.o[c]);
      }
    }
    __syncwarp();
  }
  if (lane == 0) {
    most[warp] = r.most;
    sums[warp] = r.sum;
  }
#pragma unroll
  for (int c = 0; c < kMostColumns; ++c) o[warp][c * kWarp + lane] = r.o[c];
  __syncthreads();
  float top = -INFINITY, all = 0;
  for (int w = 0; w < kWarps; ++w) top = fmaxf(top, most[w]);
  for (int w = 0; w < kWarps; ++w) all += sums[w] * expf(most[w] - top);
  float* y = p.y + blockIdx.x * p.y_stride + head * size;
  for (int i = threadIdx.x; i < size; i += kThreads) {
    float sum = 0;
    for (int w = 0; w < kWarps; ++w) sum = fmaf(o[w][i], expf(most[w] - top), sum);
    y[i] = sum / all;
  }
}

}  // namespace

cudaError_t LaunchAttention(const StepTables& tables, int64_t rows, const AttentionParams& params,
                            cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(rows), static_cast<unsigned>(params.heads));
  AttentionKernel<<<grid, kThreads, 0, stream>>>(tables, params);
  return cudaGetLastError();
}

}  // namespace attnd::decode
