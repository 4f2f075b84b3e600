// Kernels that work on whole rows: embedding, norms, convolutions and row operations.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cores/feature_maps.cuh"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/decode/cuda/step_kernels.h"
#include "kernels/decode/step_engine.h"

namespace attnd::decode {
namespace {

constexpr int kWarp = 32;
constexpr int kRowThreads = 128;
constexpr int kRowWarps = kRowThreads / kWarp;

// Sums of all lanes, in every lane.
__device__ float WarpSum(float x) {
#pragma unroll
  for (int d = kWarp / 2; d > 0; d /= 2) x += __shfl_xor_sync(~0u, x, d);
  return x;
}

__device__ float Silu(float x) { return cuda::ApplyToElement(FeatureMap::kSilu, x); }
__device__ float Softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }

__global__ void EmbedKernel(const StepRow* rows, cuda::Elements embedding, int hidden, float* x,
                            int64_t stride) {
  const int64_t token = rows[blockIdx.x].token;
  for (int i = threadIdx.x; i < hidden; i += blockDim.x) {
    x[blockIdx.x * stride + i] = embedding.Load(token * hidden + i);
  }
}

// A warp for each row.
__global__ void RmsNormKernel(const float* x, int64_t x_stride, const int32_t* index, int rows,
                              int size, double eps, const float* weight, float* out,
                              int64_t out_stride) {
  const int row = blockIdx.x * kRowWarps + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  if (row >= rows) return;
  const float* from = x + (index != nullptr ? index[row] : row) * x_stride;
  float sum = 0;
  for (int i = lane; i < size; i += kWarp) sum += from[i] * from[i];
  const double mean = static_cast<double>(WarpSum(sum)) / size;
  const auto factor = static_cast<float>(1 / sqrt(mean + eps));
  for (int i = lane; i < size; i += kWarp) out[row * out_stride + i] = from[i] * factor * weight[i];
}

__global__ void GatedProductKernel(const float* both, int64_t both_stride, int size, float* inner,
                                   int64_t inner_stride) {
  const float* row = both + blockIdx.x * both_stride;
  const int i = blockIdx.y * blockDim.x + threadIdx.x;
  if (i < size) inner[blockIdx.x * inner_stride + i] = Silu(row[i]) * row[size + i];
}

// A norm of every part: a warp for each, sums by lane, then over lanes.
__device__ void NormParts(const DeviceRowOp& op, float* x) {
  const int part = op.size / op.parts, lane = threadIdx.x % kWarp;
  for (int h = threadIdx.x / kWarp; h < op.parts; h += kRowWarps) {
    float* head = x + h * part;
    const bool plain = op.kind == RowOpKind::kSumNorm;
    float sum = 0;
    for (int i = lane; i < part; i += kWarp) sum += plain ? head[i] : head[i] * head[i];
    sum = WarpSum(sum);
    float factor;
    if (plain) {
      factor = 1 / (sum + static_cast<float>(op.a));
    } else {
      const double mean = op.kind == RowOpKind::kRmsNorm ? static_cast<double>(sum) / part : sum;
      factor = static_cast<float>(1 / sqrt(mean + op.a));
    }
    for (int i = lane; i < part; i += kWarp) {
      head[i] = head[i] * factor * (op.v != nullptr ? op.v[i] : 1.0f);
    }
  }
}

__device__ void RotateParts(const DeviceRowOp& op, int position, float* x) {
  const int half = op.size / op.parts / 2;
  // A thread turns one pair of all heads: angles are float64 and dear.
  for (int p = threadIdx.x; p < half; p += kRowThreads) {
    double sin64, cos64;
    sincos(position * op.frequencies[p], &sin64, &cos64);
    const auto c = static_cast<float>(cos64), s = static_cast<float>(sin64);
    for (int h = 0; h < op.parts; ++h) {
      float* head = x + h * 2 * half;
      const float a = head[p], b = head[p + half];
      head[p] = a * c - b * s;
      head[p + half] = b * c + a * s;
    }
  }
}

// A thread for each feature: row i of the triangle begins at i (i + 1) / 2.
__device__ void TaylorParts(const DeviceRowOp& op, const float* x, float* to) {
  const int part = op.size / op.parts;
  const float scale = rsqrtf(sqrtf(static_cast<float>(part)));
  for (int at = threadIdx.x; at < op.parts * op.outputs; at += kRowThreads) {
    const float* head = x + at / op.outputs * part;
    const int feature = at % op.outputs - 1 - part;
    float value = 1;
    if (feature >= 0) {
      int i = static_cast<int>((sqrtf(8.0f * feature + 1) - 1) / 2);
      if (i * (i + 1) / 2 > feature) --i;
      if ((i + 1) * (i + 2) / 2 <= feature) ++i;
      const int j = feature - i * (i + 1) / 2;
      value = (head[j] * scale) * (head[i] * scale) * (i == j ? 0.70710678f : 1.0f);
    } else if (feature + part >= 0) {
      value = head[feature + part] * scale;
    }
    to[at] = value;
  }
}

// By the threads of a block, on a row in shared memory.
__device__ void RunOp(const DeviceRowOp& op, int position, float* row) {
  float* x = row + op.at;
  float* to = row + op.to;
  const int part = op.size / op.parts;
  switch (op.kind) {
    case RowOpKind::kL2Norm:
    case RowOpKind::kSumNorm:
    case RowOpKind::kRmsNorm:
      return NormParts(op, x);
    case RowOpKind::kRotate:
      return RotateParts(op, position, x);
    case RowOpKind::kProject:
      for (int i = threadIdx.x; i < op.parts * op.outputs; i += kRowThreads) {
        const float* in = x + i / op.outputs * part;
        const float* column = op.matrix + i % op.outputs;
        float sum = 0;
        for (int k = 0; k < part; ++k) sum = fmaf(in[k], column[int64_t{k} * op.outputs], sum);
        to[i] = sum;
      }
      return;
    case RowOpKind::kHalvesProduct:
      for (int i = threadIdx.x; i < op.size / 2; i += kRowThreads) {
        const float* head = x + i / (part / 2) * part + i % (part / 2);
        to[i] = head[0] * head[part / 2];
      }
      return;
    case RowOpKind::kRepeat: {
      const int times = static_cast<int>(op.a);
      for (int i = threadIdx.x; i < op.size * times; i += kRowThreads) {
        to[i] = x[i / (part * times) * part + i % part];
      }
      return;
    }
    case RowOpKind::kScaleHeads:
      for (int i = threadIdx.x; i < op.size; i += kRowThreads) x[i] *= to[i / part];
      return;
    case RowOpKind::kTaylorMap:
      return TaylorParts(op, x, to);
    default:
      break;
  }
  for (int i = threadIdx.x; i < op.size; i += kRowThreads) {
    switch (op.kind) {
      case RowOpKind::kMap:
        x[i] = cuda::ApplyToElement(op.map, x[i]);
        break;
      case RowOpKind::kScale:
        x[i] *= static_cast<float>(op.a);
        break;
      case RowOpKind::kAdd:
        x[i] += op.v[i];
        break;
      case RowOpKind::kFill:
        x[i] = op.v[i];
        break;
      case RowOpKind::kLogSigmoid:
        x[i] = fmaxf(-Softplus(-x[i]) / static_cast<float>(op.a), static_cast<float>(op.b));
        break;
      case RowOpKind::kSoftplusGate:
        x[i] = -op.w[i / part] * Softplus(x[i] + op.v[i]);
        break;
      case RowOpKind::kBoundedGate:
        x[i] = cuda::Sigmoid(op.w[i / part] * (x[i] + op.v[i])) * static_cast<float>(op.a);
        break;
      case RowOpKind::kStepGate: {
        const float step = fminf(fmaxf(Softplus(x[i] + op.v[i]), static_cast<float>(op.a)),
                                 static_cast<float>(op.b));
        x[i] = step;
        to[i] = -op.w[i] * step;
        break;
      }
      case RowOpKind::kForgetGate: {
        const float key = cuda::Sigmoid(-x[i]) * (op.v != nullptr ? 1 - op.v[i] : 1.0f);
        x[i] = key;
        to[i] = log1pf(-key);
        break;
      }
      default:
        break;
    }
  }
}

// The convolution's value at a row: the inputs before it are rows of this step, or the state's.
__device__ float Convolve(const DeviceConvolution& conv, int channel, int offset, const float* raw,
                          int64_t stride, const float* state) {
  float sum = conv.bias != nullptr ? conv.bias[channel] : 0.0f;
  for (int j = 0; j < conv.taps; ++j) {
    const int back = conv.taps - 1 - j;  // Rows before this one.
    const float input =
        back <= offset
            ? raw[-back * stride + conv.at + channel]
            : state[conv.state + (conv.taps - 1 - (back - offset)) * conv.channels + channel];
    sum = fmaf(conv.weight[j * conv.channels + channel], input, sum);
  }
  return conv.silu ? Silu(sum) : sum;
}

// A block for each row.
__global__ void __launch_bounds__(kRowThreads) RowsKernel(StepTables tables, RowsParams p) {
  extern __shared__ float row[];
  // Operations are read from memory once, all together.
  __shared__ DeviceRowOp ops[kMostRowOps];
  const StepRow own = tables.rows[blockIdx.x];
  if (own.segment < 0) return;
  constexpr int kWords = sizeof(DeviceRowOp) / sizeof(uint64_t);
  for (int i = threadIdx.x; i < p.op_count * kWords; i += kRowThreads) {
    reinterpret_cast<uint64_t*>(ops)[i] = reinterpret_cast<const uint64_t*>(p.ops)[i];
  }
  const float* raw = p.raw + blockIdx.x * p.stride;
  for (int i = threadIdx.x; i < p.width; i += kRowThreads) row[i] = raw[i];
  __syncthreads();
  if (p.convolution_count > 0) {
    const float* state = tables.fixed[p.layer * tables.segment_count + own.segment];
    for (int c = 0; c < p.convolution_count; ++c) {
      const DeviceConvolution conv = p.convolutions[c];
      for (int i = threadIdx.x; i < conv.channels; i += kRowThreads) {
        row[conv.at + i] = Convolve(conv, i, own.offset, raw, p.stride, state);
      }
    }
    __syncthreads();
  }
  for (int i = 0; i < p.op_count; ++i) {
    RunOp(ops[i], own.position, row);
    __syncthreads();
  }
  float* out = p.rows + blockIdx.x * p.stride;
  for (int i = threadIdx.x; i < p.row_size; i += kRowThreads) out[i] = row[i];
  if (p.paged_layer < 0) return;
  const PageRun run = tables.page_runs[p.paged_layer * tables.segment_count + own.segment];
  float* page = tables.pages[run.begin + own.position / kPagePositions - run.first];
  const int slot = own.position % kPagePositions, size = p.kv_heads * p.head_size;
  for (int i = threadIdx.x; i < 2 * size; i += kRowThreads) {
    const int head = i / p.head_size;  // Value heads follow the key heads, here and there.
    page[(head * kPagePositions + slot) * p.head_size + i % p.head_size] = row[p.keys + i];
  }
}

// A block for each row, a warp for each group of a norm; every lane keeps to its own channels.
__global__ void __launch_bounds__(kRowThreads) FinishKernel(FinishParams p) {
  float* y = p.y + blockIdx.x * p.y_stride;
  const float* row = p.rows + blockIdx.x * p.stride;
  const int width = p.heads * p.value_size, lane = threadIdx.x % kWarp;
  const auto gated = [&](int i, float value) {
    if (p.gate_kind == RecurrentProgram::Gate::kSilu) return value * Silu(row[p.gate + i]);
    if (p.gate_kind == RecurrentProgram::Gate::kSigmoid)
      return value * cuda::Sigmoid(row[p.gate + i]);
    return value;
  };
  for (int g = threadIdx.x / kWarp; g * p.group < width; g += kRowWarps) {
    const int begin = g * p.group, end = min(begin + p.group, width);
    float sum = 0;
    for (int i = begin + lane; i < end; i += kWarp) {
      float value = y[i];
      if (p.normalise) value *= 1 / (y[width + i / p.value_size] + p.dots_eps);
      if (p.skip != nullptr) value = fmaf(p.skip[i], row[p.skipped + i], value);
      if (p.gate_first) value = gated(i, value);
      sum += value * value;
      y[i] = value;
    }
    const double mean = static_cast<double>(WarpSum(sum)) / p.group;
    const float factor = p.norm ? static_cast<float>(1 / sqrt(mean + p.norm_eps)) : 1.0f;
    for (int i = begin + lane; i < end; i += kWarp) {
      const float value = y[i] * factor * (p.norm_weight != nullptr ? p.norm_weight[i] : 1.0f);
      y[i] = p.gate_first ? value : gated(i, value);
    }
  }
}

}  // namespace

cudaError_t LaunchEmbed(const StepTables& tables, int64_t rows, const void* embedding, DType dtype,
                        int64_t hidden, float* x, int64_t x_stride, cudaStream_t stream) {
  cuda::Elements elements;
  elements.data = const_cast<void*>(embedding);
  elements.dtype = dtype;
  EmbedKernel<<<static_cast<unsigned>(rows), kRowThreads, 0, stream>>>(
      tables.rows, elements, static_cast<int>(hidden), x, x_stride);
  return cudaGetLastError();
}

cudaError_t LaunchRmsNorm(const float* x, int64_t x_stride, const int32_t* index, int64_t rows,
                          int64_t size, double eps, const float* weight, float* out,
                          int64_t out_stride, cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(cuda::CeilDiv(rows, int64_t{kRowWarps}));
  RmsNormKernel<<<blocks, kRowThreads, 0, stream>>>(x, x_stride, index, static_cast<int>(rows),
                                                    static_cast<int>(size), eps, weight, out,
                                                    out_stride);
  return cudaGetLastError();
}

cudaError_t LaunchGatedProduct(const float* both, int64_t both_stride, int64_t rows, int64_t size,
                               float* inner, int64_t inner_stride, cudaStream_t stream) {
  constexpr int64_t kThreads = 256;
  const dim3 grid(static_cast<unsigned>(rows),
                  static_cast<unsigned>(cuda::CeilDiv(size, kThreads)));
  GatedProductKernel<<<grid, kThreads, 0, stream>>>(both, both_stride, static_cast<int>(size),
                                                    inner, inner_stride);
  return cudaGetLastError();
}

cudaError_t LaunchRows(const StepTables& tables, int64_t rows, const RowsParams& params,
                       cudaStream_t stream) {
  const auto bytes = static_cast<int>(params.row_size * sizeof(float));
  constexpr int kOps = kMostRowOps * sizeof(DeviceRowOp);
  if (bytes + kOps > 48 * 1024) {
    static const cudaError_t allowed = cudaFuncSetAttribute(
        RowsKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, cuda::SharedMemoryLimit() - kOps);
    if (allowed != cudaSuccess) return allowed;
  }
  RowsKernel<<<static_cast<unsigned>(rows), kRowThreads, static_cast<size_t>(bytes), stream>>>(
      tables, params);
  return cudaGetLastError();
}

cudaError_t LaunchFinish(int64_t rows, const FinishParams& params, cudaStream_t stream) {
  FinishKernel<<<static_cast<unsigned>(rows), kRowThreads, 0, stream>>>(params);
  return cudaGetLastError();
}

}  // namespace attnd::decode
