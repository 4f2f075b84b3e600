// What a chunk contributes that does not depend on the state. One block for each chunk of each
// head.
#include "kernels/cores/recurrent_products.cuh"

namespace attnd::cuda {
namespace {

// A block's shared memory.
struct Tiles {
  int stride;      // Of rows of K.
  float* q;        // [64,K]: q scale
  float* k;        // [64,K]
  float* weights;  // [64,64]: P
  float* system;   // [64,64]: A, strictly lower; delta rule only.
  float* between;  // [64,64]: e^(G_r - G_s); unless the decay is per channel.
  float* left_q;   // Decay per channel: [16,K] q e^(G_r - G_n)
  float* left_k;   // [16,K]
  float* right;    // [48,K] k e^(G_n - G_s)
  float* gates;    // [64]
  float* beta;     // [64]
};

__host__ __device__ int TileFloats(const RecurrentParams& p) {
  const int rows = kChunk * (p.padded_K + kPad);
  const int scaled = (2 * kSubChunk + kChunk - kSubChunk) * (p.padded_K + kPad);
  const int square = kChunk * kSquare;
  return 2 * rows + square + (p.delta ? square : 0) +
         (p.decay == Decay::kVector ? scaled : square) + 2 * kChunk;
}

__device__ Tiles Carve(const RecurrentParams& p, float* memory) {
  Tiles t;
  t.stride = p.padded_K + kPad;
  t.q = memory;
  t.k = t.q + kChunk * t.stride;
  t.weights = t.k + kChunk * t.stride;
  t.system = t.weights + kChunk * kSquare;
  float* rest = p.delta ? t.system + kChunk * kSquare : t.system;
  t.between = t.left_q = rest;
  t.left_k = t.left_q + kSubChunk * t.stride;
  t.right = t.left_k + kSubChunk * t.stride;
  t.gates = p.decay == Decay::kVector ? t.right + (kChunk - kSubChunk) * t.stride
                                      : rest + kChunk * kSquare;
  t.beta = t.gates + kChunk;
  return t;
}

__device__ void LoadRows(const HeadView& x, const Chunk& chunk, int head, float factor, int padded,
                         float* tile, int stride) {
  for (int i = threadIdx.x; i < kChunk * padded; i += kRecurrentThreads) {
    const int r = i / padded, c = i % padded;
    const bool inside = r < chunk.count && c < x.width;
    tile[r * stride + c] =
        inside ? x.elements.Load(x.At(chunk.row, chunk.begin + r, head) + c) * factor : 0.0f;
  }
}

// Gates that all channels share: e^(G_r - G_s) for every pair, summed up from s to r and never
// subtracted.
__device__ void SharedGates(const RecurrentParams& p, const Tiles& t, const Chunk& chunk, int head,
                            int64_t slot) {
  const int thread = threadIdx.x;
  if (thread < kChunk) {
    float gate = 0;
    if (thread < chunk.count && p.decay == Decay::kScalar) {
      gate = p.g.elements.Load(p.g.At(chunk.row, chunk.begin + thread, head));
    } else if (thread < chunk.count && p.decay == Decay::kHead) {
      gate = p.g.elements.Load(head);
    }
    t.gates[thread] = gate;
  }
  __syncthreads();
  float since = 0, until = 0;
  if (thread < kChunk) {
    for (int u = 0; u <= thread; ++u) since += t.gates[u];
    t.between[thread * kSquare + thread] = 1;
    for (int r = thread + 1; r < kChunk; ++r) {
      until += t.gates[r];
      t.between[r * kSquare + thread] = expf(until);
      t.between[thread * kSquare + r] = 0;
    }
  }
  __syncthreads();
  if (thread < kChunk) {
    // Rows of the chunk's tiles that hold no token have zero keys, so their gates do not matter.
    t.gates[thread] = expf(since);
    t.beta[thread] = expf(until);
  }
  __syncthreads();
  for (int i = thread; i < kChunk * p.padded_K; i += kRecurrentThreads) {
    const int r = i / p.padded_K, c = i % p.padded_K;
    const float key = t.k[r * t.stride + c];
    const int64_t at = slot * kChunk * p.padded_K + i;
    p.queries[at] = t.q[r * t.stride + c] * t.gates[r];
    p.keys_until[at] = key * t.beta[r];
    if (p.delta) p.keys_since[at] = key * t.gates[r];
  }
  for (int c = thread; c < p.padded_K; c += kRecurrentThreads)
    p.end[slot * p.padded_K + c] = t.gates[chunk.count - 1];
  __syncthreads();
}

__device__ void SharedWeights(const RecurrentParams& p, const Tiles& t) {
  const auto multiply = [&](const float* rows, float* out) {
    ForTiles(
        kChunk, kChunk,
        [&](int m, int n, auto& sum) {
          if (n > m) return;  // Above the diagonal.
          AddByRow(rows + m * t.stride, t.stride, t.k + n * t.stride, t.stride, p.padded_K, sum);
        },
        [&](int r, int s, float value) {
          out[r * kSquare + s] = s <= r ? value * t.between[r * kSquare + s] : 0.0f;
        });
  };
  multiply(t.q, t.weights);
  if (p.delta) multiply(t.k, t.system);
}

// The gate of channel c at the chunk's token r.
__device__ float ChannelGate(const RecurrentParams& p, const Chunk& chunk, int head, int r, int c) {
  return c < p.K ? p.g.elements.Load(p.g.At(chunk.row, chunk.begin + r, head) + c) : 0.0f;
}

__device__ void ChannelDecays(const RecurrentParams& p, const Tiles& t, const Chunk& chunk,
                              int head, int64_t slot) {
  const int64_t base = slot * kChunk * p.padded_K;
  for (int c = threadIdx.x; c < p.padded_K; c += kRecurrentThreads) {
    float sum = 0;
    for (int r = 0; r < kChunk; ++r) {
      if (r < chunk.count) sum += ChannelGate(p, chunk, head, r, c);
      const float decay = expf(sum);
      p.queries[base + r * p.padded_K + c] = t.q[r * t.stride + c] * decay;
      if (p.delta) p.keys_since[base + r * p.padded_K + c] = t.k[r * t.stride + c] * decay;
    }
    p.end[slot * p.padded_K + c] = expf(sum);
    sum = 0;
    for (int r = kChunk - 1; r >= 0; --r) {
      p.keys_until[base + r * p.padded_K + c] = t.k[r * t.stride + c] * expf(sum);
      if (r < chunk.count) sum += ChannelGate(p, chunk, head, r, c);
    }
  }
}

// Pairs within a sub-chunk: one warp for each s, walking r upward with the decay of every channel.
__device__ void DiagonalPairs(const RecurrentParams& p, const Tiles& t, const Chunk& chunk,
                              int head) {
  constexpr int kMostPerLane = 4;  // K <= 128.
  for (int s = threadIdx.x / kWarpSize; s < kChunk; s += kRecurrentWarps) {
    float sums[kMostPerLane] = {};
    const int end = (s / kSubChunk + 1) * kSubChunk;
    for (int r = s; r < end; ++r) {
      float weight = 0, overlap = 0;
#pragma unroll
      for (int j = 0; j < kMostPerLane; ++j) {
        const int c = Lane() + j * kWarpSize;
        if (c >= p.padded_K) continue;
        if (r > s && r < chunk.count) sums[j] += ChannelGate(p, chunk, head, r, c);
        const float key = t.k[s * t.stride + c] * (r > s ? expf(sums[j]) : 1.0f);
        weight += t.q[r * t.stride + c] * key;
        overlap += t.k[r * t.stride + c] * key;
      }
#pragma unroll
      for (int half = kWarpSize / 2; half > 0; half /= 2) {
        weight += __shfl_xor_sync(0xffffffffu, weight, half);
        overlap += __shfl_xor_sync(0xffffffffu, overlap, half);
      }
      if (Lane() == 0) {
        t.weights[r * kSquare + s] = weight;
        if (p.delta) t.system[r * kSquare + s] = overlap;
      }
    }
    // Above the diagonal, and the later sub-chunks' columns of this row.
    for (int r = Lane(); r < s; r += kWarpSize) {
      t.weights[r * kSquare + s] = 0;
      if (p.delta) t.system[r * kSquare + s] = 0;
    }
  }
}

// Pairs across sub-chunks: through the later one's first token n, with both factors at most one.
__device__ void ChannelWeights(const RecurrentParams& p, const Tiles& t, const Chunk& chunk,
                               int head) {
  DiagonalPairs(p, t, chunk, head);
  for (int n = kSubChunk; n < kChunk; n += kSubChunk) {
    __syncthreads();
    for (int c = threadIdx.x; c < p.padded_K; c += kRecurrentThreads) {
      float sum = 0;
      for (int r = 0; r < kSubChunk; ++r) {
        if (r > 0 && n + r < chunk.count) sum += ChannelGate(p, chunk, head, n + r, c);
        const float decay = expf(sum);
        t.left_q[r * t.stride + c] = t.q[(n + r) * t.stride + c] * decay;
        t.left_k[r * t.stride + c] = t.k[(n + r) * t.stride + c] * decay;
      }
      sum = 0;
      for (int s = n - 1; s >= 0; --s) {
        if (s + 1 < chunk.count) sum += ChannelGate(p, chunk, head, s + 1, c);
        t.right[s * t.stride + c] = t.k[s * t.stride + c] * expf(sum);
      }
    }
    __syncthreads();
    const auto multiply = [&](const float* rows, float* out) {
      ForTiles(
          kSubChunk, n,
          [&](int, int column, auto& sum) {
            AddByRow(rows, t.stride, t.right + column * t.stride, t.stride, p.padded_K, sum);
          },
          [&](int r, int s, float value) { out[(n + r) * kSquare + s] = value; });
    };
    multiply(t.left_q, t.weights);
    if (p.delta) multiply(t.left_k, t.system);
  }
}

// inverse = (I + A)^-1, a column to a thread, rows in order.
__device__ void Invert(const RecurrentParams& p, const Tiles& t, const Chunk& chunk, int head,
                       int64_t slot) {
  if (threadIdx.x < kChunk) {
    const int r = threadIdx.x;
    float beta = r < chunk.count ? 1.0f : 0.0f;
    if (r < chunk.count && p.beta.elements.defined()) {
      beta = p.beta.elements.Load(p.beta.At(chunk.row, chunk.begin + r, head));
    }
    t.beta[r] = beta;
  }
  __syncthreads();
  // The queries' tile is done with: it takes the columns as rows of kSquare.
  float* columns = t.q;
  if (threadIdx.x < kChunk) {
    const int c = threadIdx.x;
    for (int r = 0; r < kChunk; ++r) {
      float x = r == c ? 1.0f : 0.0f;
      if (r > c) {
        float sum = 0;
        for (int s = c; s < r; ++s)
          sum = fmaf(t.system[r * kSquare + s], columns[s * kSquare + c], sum);
        x = -t.beta[r] * sum;
      }
      columns[r * kSquare + c] = x;
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kChunk * kChunk; i += kRecurrentThreads) {
    p.inverse[slot * kChunk * kChunk + i] = columns[i / kChunk * kSquare + i % kChunk];
  }
}

__global__ void __launch_bounds__(kRecurrentThreads) PrepareChunks(RecurrentParams p) {
  extern __shared__ float memory[];
  const Tiles t = Carve(p, memory);
  const Chunk chunk = p.chunks[blockIdx.x];
  const int head = static_cast<int>(blockIdx.y);
  const int64_t slot = p.Slot(blockIdx.x, head);
  LoadRows(p.q, chunk, head, p.scale, p.padded_K, t.q, t.stride);
  LoadRows(p.k, chunk, head, 1.0f, p.padded_K, t.k, t.stride);
  __syncthreads();
  if (p.decay == Decay::kVector) {
    ChannelDecays(p, t, chunk, head, slot);
    ChannelWeights(p, t, chunk, head);
  } else {
    SharedGates(p, t, chunk, head, slot);
    SharedWeights(p, t);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kChunk * kChunk; i += kRecurrentThreads) {
    p.weights[slot * kChunk * kChunk + i] = t.weights[i / kChunk * kSquare + i % kChunk];
  }
  if (p.delta) Invert(p, t, chunk, head, slot);
}

}  // namespace

int PrepareSharedMemory(const RecurrentParams& p) {
  return TileFloats(p) * static_cast<int>(sizeof(float));
}

cudaError_t LaunchPrepare(cudaStream_t stream, const RecurrentParams& p, int64_t chunks) {
  const int memory = PrepareSharedMemory(p);
  const cudaError_t error =
      cudaFuncSetAttribute(PrepareChunks, cudaFuncAttributeMaxDynamicSharedMemorySize, memory);
  if (error != cudaSuccess) return error;
  const dim3 grid(static_cast<unsigned>(chunks), static_cast<unsigned>(p.heads));
  PrepareChunks<<<grid, kRecurrentThreads, memory, stream>>>(p);
  return cudaGetLastError();
}

}  // namespace attnd::cuda
