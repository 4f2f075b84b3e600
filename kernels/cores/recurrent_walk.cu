// The sequential part: a head's chunks in order, a slice of its state in shared memory.
#include "kernels/cores/recurrent_products.cuh"

namespace attnd::cuda {
namespace {

// tile[r, 0..padded] from rows of the prepared workspace, sixteen bytes at a time.
__device__ void LoadPrepared(const float* rows, int width, float* tile, int stride) {
  const int vectors = width / 4;
  for (int i = threadIdx.x; i < kChunk * vectors; i += kRecurrentThreads) {
    const int r = i / vectors, c = i % vectors * 4;
    *reinterpret_cast<float4*>(tile + r * stride + c) =
        *reinterpret_cast<const float4*>(rows + r * width + c);
  }
}

// Columns of the state that a block keeps. Above 128 channels of keys a narrower slice leaves room
// for their tiles.
int SliceOf(const RecurrentParams& p) { return p.K > 128 ? 32 : 64; }

// Values of the chunk as they are at its end; total[j] = e^(decay of column j over the chunk). Uses
// up fade [count,slice], of which total is the first row.
template <int kSlice>
__device__ void FadeOut(float* values, float* fade, int count, int stride) {
  const int j = threadIdx.x;
  if (j >= kSlice) return;
  float left = 1;
  for (int s = count - 1; s >= 0; --s) {
    values[s * stride + j] *= left;
    left *= fade[s * stride + j];
  }
  fade[j] = left;
}

template <int kSlice>
__global__ void __launch_bounds__(kRecurrentThreads) WalkChunks(RecurrentParams p) {
  constexpr int kValues = kSlice + kPad;
  extern __shared__ float memory[];
  const int stride = p.padded_K + kPad;
  float* state = memory;                        // [K,slice]
  float* rows = state + p.padded_K * kValues;   // [64,K]: queries or keys
  float* square = rows + kChunk * stride;       // [64,64]: weights or inverse
  float* values = square + kChunk * kSquare;    // [64,slice]: v, then u
  float* residual = values + kChunk * kValues;  // [64,slice]: beta (v - S~^T k); delta rule
  float* fade = residual;                       // [64,slice]: e^gv; with a decay of values
  const int first_value = static_cast<int>(blockIdx.x) * kSlice;
  const int head = static_cast<int>(blockIdx.y);
  const Run run = p.runs[blockIdx.z];
  const int64_t state_at = (run.state * p.heads + head) * int64_t{p.K} * p.V;

  for (int i = threadIdx.x; i < p.padded_K * kSlice; i += kRecurrentThreads) {
    const int c = i / kSlice, j = i % kSlice;
    const bool inside = c < p.K && first_value + j < p.V && p.initial_state != nullptr;
    state[c * kValues + j] =
        inside ? p.initial_state[state_at + int64_t{c} * p.V + first_value + j] : 0.0f;
  }
  for (int64_t index = run.first_chunk; index < run.first_chunk + run.chunks; ++index) {
    const Chunk chunk = p.chunks[index];
    const int64_t slot = p.Slot(index, head);
    const int64_t rows_at = slot * kChunk * p.padded_K, square_at = slot * kChunk * kChunk;
    __syncthreads();    // The state is written, and the tiles of the last chunk are done with.
    bool wild = false;  // Whether the right side of the next triangular product is infinite or NaN
                        // somewhere.
    for (int i = threadIdx.x; i < kChunk * kSlice; i += kRecurrentThreads) {
      const int r = i / kSlice, j = i % kSlice;
      const bool inside = r < chunk.count && first_value + j < p.V;
      const float value =
          inside ? p.v.elements.Load(p.v.At(chunk.row, chunk.begin + r, head) + first_value + j)
                 : 0.0f;
      values[r * kValues + j] = value;
      wild |= !isfinite(value);
      if (!p.fades) continue;
      const int64_t at = p.value_decay.At(chunk.row, chunk.begin + r, head) + first_value + j;
      fade[r * kValues + j] = inside ? expf(p.value_decay.elements.Load(at)) : 1.0f;
    }
    if (p.delta) {
      LoadPrepared(p.keys_since + rows_at, p.padded_K, rows, stride);
      LoadPrepared(p.inverse + square_at, kChunk, square, kSquare);
      __syncthreads();
      ForTiles(
          kChunk, kSlice,
          [&](int m, int n, auto& sum) {
            AddByColumn(rows + m * stride, stride, state + n, kValues, p.padded_K, sum);
          },
          [&](int r, int j, float seen) {
            float rest = 0;  // Rows behind the last token stay out of every product.
            if (r < chunk.count) {
              rest = values[r * kValues + j] - seen;
              if (p.beta.elements.defined()) {
                rest *= p.beta.elements.Load(p.beta.At(chunk.row, chunk.begin + r, head));
              }
            }
            residual[r * kValues + j] = rest;
            wild |= !isfinite(rest);
          });
      wild = __syncthreads_or(wild);
      bool wild_u = false;
      ForTiles(
          kChunk, kSlice,
          [&](int m, int n, auto& sum) {
            AddLower(square + m * kSquare, kSquare, residual + n, kValues, m + 16, wild, sum);
          },
          [&](int r, int j, float u) {
            if (wild) u += WildPart(square + r * kSquare, r, residual + j, kValues);
            if (r >= chunk.count) u = 0;
            values[r * kValues + j] = u;
            wild_u |= !isfinite(u);
          });
      wild = wild_u;
      __syncthreads();
    }
    LoadPrepared(p.queries + rows_at, p.padded_K, rows, stride);
    LoadPrepared(p.weights + square_at, kChunk, square, kSquare);
    wild = __syncthreads_or(wild);
    ForTiles(
        kChunk, kSlice,
        [&](int m, int n, auto& sum) {
          AddByColumn(rows + m * stride, stride, state + n, kValues, p.padded_K, sum);
          if (p.fades) return;
          AddLower(square + m * kSquare, kSquare, values + n, kValues, m + 16, wild, sum);
        },
        [&](int r, int j, float y) {
          if (r < chunk.count && first_value + j < p.V) {
            if (p.fades) {
              // ((y f_0 + P_r0 v_0) f_1 + P_r1 v_1) ... up to the token: no decay is ever undone.
              for (int s = 0; s <= r; ++s) {
                y = fmaf(y, fade[s * kValues + j],
                         square[r * kSquare + s] * values[s * kValues + j]);
              }
            } else if (wild) {
              y += WildPart(square + r * kSquare, r, values + j, kValues);
            }
            p.o.elements.Store(p.o.At(chunk.row, chunk.begin + r, head) + first_value + j, y);
          }
        });
    __syncthreads();
    LoadPrepared(p.keys_until + rows_at, p.padded_K, rows, stride);
    if (p.fades) FadeOut<kSlice>(values, fade, static_cast<int>(chunk.count), kValues);
    __syncthreads();
    ForTiles(
        p.padded_K, kSlice,
        [&](int m, int n, auto& sum) {
          AddTransposed(rows + m, stride, values + n, kValues, kChunk, sum);
        },
        [&](int c, int j, float added) {
          float& element = state[c * kValues + j];
          if (p.fades) element *= fade[j];
          element = element * p.end[slot * p.padded_K + c] + added;
        });
  }
  __syncthreads();
  for (int i = threadIdx.x; i < p.padded_K * kSlice; i += kRecurrentThreads) {
    const int c = i / kSlice, j = i % kSlice;
    if (c < p.K && first_value + j < p.V) {
      p.final_state[state_at + int64_t{c} * p.V + first_value + j] = state[c * kValues + j];
    }
  }
}

// dots_r = q~_r · z + sum_s P_rs, then z = e^G_end z + sum_r k~_r. A channel to a thread.
__global__ void __launch_bounds__(kRecurrentThreads) WalkNormaliser(RecurrentParams p) {
  __shared__ float z[kRecurrentThreads];
  const int head = static_cast<int>(blockIdx.x);
  const Run run = p.runs[blockIdx.y];
  const int c = threadIdx.x;
  const int64_t at = (run.state * p.heads + head) * int64_t{p.K};
  z[c] = c < p.K && p.initial_z != nullptr ? p.initial_z[at + c] : 0.0f;
  for (int64_t index = run.first_chunk; index < run.first_chunk + run.chunks; ++index) {
    const Chunk chunk = p.chunks[index];
    const int64_t slot = p.Slot(index, head);
    __syncthreads();
    for (int r = threadIdx.x / kWarpSize; r < chunk.count; r += kRecurrentWarps) {
      float sum = 0;
      for (int i = Lane(); i < p.K; i += kWarpSize)
        sum += p.queries[(slot * kChunk + r) * p.padded_K + i] * z[i];
      for (int s = Lane(); s <= r; s += kWarpSize)
        sum += p.weights[(slot * kChunk + r) * kChunk + s];
      for (int half = kWarpSize / 2; half > 0; half /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, half);
      if (Lane() == 0) {
        p.dots[(chunk.row * p.o.tokens + chunk.begin + r) * p.heads + head] = sum;
      }
    }
    __syncthreads();
    if (c < p.K) {
      float sum = z[c] * p.end[slot * p.padded_K + c];
      for (int r = 0; r < chunk.count; ++r)
        sum += p.keys_until[(slot * kChunk + r) * p.padded_K + c];
      z[c] = sum;
    }
  }
  __syncthreads();
  if (c < p.K) p.final_z[at + c] = z[c];
}

template <int kSlice>
cudaError_t LaunchSlices(cudaStream_t stream, const RecurrentParams& p, int64_t runs) {
  const int memory = WalkSharedMemory(p);
  const cudaError_t error =
      cudaFuncSetAttribute(WalkChunks<kSlice>, cudaFuncAttributeMaxDynamicSharedMemorySize, memory);
  if (error != cudaSuccess) return error;
  const dim3 grid(static_cast<unsigned>((p.V + kSlice - 1) / kSlice),
                  static_cast<unsigned>(p.heads), static_cast<unsigned>(runs));
  WalkChunks<kSlice><<<grid, kRecurrentThreads, memory, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace

int WalkSharedMemory(const RecurrentParams& p) {
  const int values = SliceOf(p) + kPad;
  const int floats = p.padded_K * values + kChunk * (p.padded_K + kPad) + kChunk * kSquare +
                     kChunk * values * (p.delta || p.fades ? 2 : 1);
  return floats * static_cast<int>(sizeof(float));
}

cudaError_t LaunchWalk(cudaStream_t stream, const RecurrentParams& p, int64_t runs) {
  return SliceOf(p) == 32 ? LaunchSlices<32>(stream, p, runs) : LaunchSlices<64>(stream, p, runs);
}

cudaError_t LaunchNormaliser(cudaStream_t stream, const RecurrentParams& p, int64_t runs) {
  const dim3 grid(static_cast<unsigned>(p.heads), static_cast<unsigned>(runs));
  WalkNormaliser<<<grid, kRecurrentThreads, 0, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace attnd::cuda
