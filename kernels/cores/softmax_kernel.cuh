// The kernel of the softmax core. One block of four warps computes 64 queries of one head, 16 to a
// warp; keys pass by in tiles through shared memory, values one step behind them:
//
//   keys(n) arrived | fetch values(n) | scores, weights | values(n) arrived | fetch keys(n + 1) |
//   add values
#ifndef ATTND_KERNELS_CORES_SOFTMAX_KERNEL_CUH_
#define ATTND_KERNELS_CORES_SOFTMAX_KERNEL_CUH_

#include <cstdint>
#include <type_traits>

#include "kernels/cores/softmax_launch.h"
#include "kernels/cores/softmax_mask.cuh"
#include "kernels/cuda/async_copy.cuh"
#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/online_softmax.cuh"

namespace attnd::cuda {

inline constexpr int kSoftmaxThreads = 128;

template <typename T, int kWidth>
struct SoftmaxTiles {
  // Tiles of keys are half as long where registers are scarce: float32 products take twice as many,
  // the widest heads fill half of them with outputs.
  static constexpr int kKeys = sizeof(T) == 4 || kWidth > 128 ? 32 : 64;
  // Blocks that share a multiprocessor, and its registers.
  static constexpr int kBlocks = kWidth <= 64 ? 3 : kWidth <= 128 ? 2 : 1;
  static constexpr int kRowStride = kWidth + Fragments<T>::kRowPad;
  static constexpr int kColumnStride = kWidth + Fragments<T>::kColumnPad;
  static constexpr int kKeysAt = kSoftmaxQueries * kRowStride;
  static constexpr int kValuesAt = kKeysAt + kKeys * kRowStride;
  static constexpr int kBytes = (kValuesAt + kKeys * kColumnStride) * static_cast<int>(sizeof(T));
};

// Tiles of keys that are left to compute, in order: 2 * tile + (1 if its pairs are to be checked).
struct TileList {
  int warp_counts[kSoftmaxThreads / kWarpSize];
  int entries[kSoftmaxThreads];
};

// Bounds of the tile's rows (those beyond the last repeat it) and their extremes. Ends with a
// barrier.
__device__ inline void FindBounds(const SoftmaxMask& mask, const QueryTile& tile, RowBounds* rows,
                                  TileBounds& bounds) {
  if (threadIdx.x < 3) {
    bounds.low_min[threadIdx.x] = bounds.high_min[threadIdx.x] = INT_MAX;
    bounds.low_max[threadIdx.x] = bounds.high_max[threadIdx.x] = INT_MIN;
  }
  __syncthreads();
  if (threadIdx.x < kSoftmaxQueries) {
    const int row = tile.first + min(static_cast<int>(threadIdx.x), tile.rows - 1);
    const RowBounds own =
        WithRule(mask, [&](const auto& rule) { return MakeRow(rule, tile, row); });
    rows[threadIdx.x] = own;
#pragma unroll
    for (int axis = 0; axis < 3; ++axis) {
      const int low_min = __reduce_min_sync(~0u, own.low[axis]);
      const int low_max = __reduce_max_sync(~0u, own.low[axis]);
      const int high_min = __reduce_min_sync(~0u, own.high[axis]);
      const int high_max = __reduce_max_sync(~0u, own.high[axis]);
      if (Lane() == 0) {
        atomicMin(&bounds.low_min[axis], low_min);
        atomicMax(&bounds.low_max[axis], low_max);
        atomicMin(&bounds.high_min[axis], high_min);
        atomicMax(&bounds.high_max[axis], high_max);
      }
    }
  }
  __syncthreads();
}

// Classifies tiles [base, base + kSoftmaxThreads) below `end`; returns the length of the list.
// Starts and ends with a barrier.
template <int kKeys>
__device__ int ListTiles(const SoftmaxMask& mask, const QueryTile& tile, const TileBounds& bounds,
                         int base, int end, TileList& list) {
  const int own = base + static_cast<int>(threadIdx.x);
  TileState state = TileState::kSkip;
  if (own < end) {
    const int key_end = min((own + 1) * kKeys, tile.keys);
    state = WithRule(
        mask, [&](const auto& rule) { return Classify(rule, tile, bounds, own * kKeys, key_end); });
    if (state == TileState::kFull && key_end % kKeys != 0) state = TileState::kCheck;
  }
  const unsigned taken = __ballot_sync(~0u, state != TileState::kSkip);
  const int warp = threadIdx.x / kWarpSize;
  __syncthreads();
  if (Lane() == 0) list.warp_counts[warp] = __popc(taken);
  __syncthreads();
  int count = 0;
  int at = __popc(taken & ((1u << Lane()) - 1));
#pragma unroll
  for (int w = 0; w < kSoftmaxThreads / kWarpSize; ++w) {
    if (w < warp) at += list.warp_counts[w];
    count += list.warp_counts[w];
  }
  if (state != TileState::kSkip) list.entries[at] = 2 * own + (state == TileState::kCheck ? 1 : 0);
  __syncthreads();
  return count;
}

// Bit j of allowed[0] (allowed[1]): whether this lane's upper (lower) row may read key first_key +
// j.
template <int kKeys>
__device__ void AllowedKeys(const SoftmaxMask& mask, const QueryTile& tile, const RowBounds* rows,
                            int first_key, uint64_t (&allowed)[2]) {
  const int warp_row = threadIdx.x / kWarpSize * 16;
  allowed[0] = allowed[1] = 0;
  WithRule(mask, [&](const auto& rule) {
    for (int part = 0; part < kKeys; part += kWarpSize) {
      const auto key = MakeKey(rule, tile, first_key + part + Lane());
      for (int r = 0; r < 16; ++r) {
        const int row = warp_row + r;
        const bool allows = row < tile.rows && Allows(rule, tile, tile.first + row, rows[row], key);
        const uint64_t bits = static_cast<uint64_t>(__ballot_sync(~0u, allows)) << part;
        if (r % 8 == Lane() / 4) allowed[r / 8] |= bits;
      }
    }
  });
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kSoftmaxThreads, SoftmaxTiles<T, kWidth>::kBlocks)
    SoftmaxKernel(const __grid_constant__ SoftmaxArguments a) {
  using Product = Fragments<T>;
  using Tiles = SoftmaxTiles<T, kWidth>;
  constexpr int kKeys = Tiles::kKeys;
  constexpr int kScoreBlocks = kKeys / 8;
  constexpr int kKeySteps = kKeys / Product::kStep;
  constexpr int kValueBlocks = kWidth / 16;

  extern __shared__ __align__(16) unsigned char memory[];
  T* const q_tile = reinterpret_cast<T*>(memory);
  T* const k_tile = q_tile + Tiles::kKeysAt;
  T* const v_tile = q_tile + Tiles::kValuesAt;
  __shared__ RowBounds rows[kSoftmaxQueries];
  __shared__ TileBounds bounds;
  __shared__ TileList list;

  // The last queries of a causal sequence have the most to read: they start first.
  const int64_t block = blockIdx.x;
  const int tile_index = a.query_tiles - 1 - static_cast<int>(block % a.query_tiles);
  const int head = static_cast<int>(block / a.query_tiles % a.heads);
  const int64_t sequence_index = block / a.query_tiles / a.heads;
  const SoftmaxSequence sequence = a.sequences[sequence_index];
  if (int64_t{tile_index} * kSoftmaxQueries >= sequence.queries) return;

  QueryTile tile;
  tile.first = tile_index * kSoftmaxQueries;
  tile.queries = static_cast<int>(sequence.queries);
  tile.rows = min(kSoftmaxQueries, tile.queries - tile.first);
  tile.keys = static_cast<int>(sequence.keys);
  tile.batch_row = sequence.batch_row;
  tile.sequence = sequence_index;
  tile.head = head;
  tile.heads = a.heads;
  const int64_t first_query = sequence.first_query + tile.first;

  const int q_stride = a.heads * a.key_size;
  const int k_stride = a.key_heads * a.key_size;
  const int v_stride = a.value_heads * a.value_size;
  const T* const q = static_cast<const T*>(a.q) + first_query * q_stride + head * a.key_size;
  const T* const k = static_cast<const T*>(a.k) + sequence.first_key * k_stride +
                     head / (a.heads / a.key_heads) * a.key_size;
  const T* const v = static_cast<const T*>(a.v) + sequence.first_key * v_stride +
                     head / (a.heads / a.value_heads) * a.value_size;
  const int padded_key_size = (a.key_size + 15) / 16 * 16;
  const int padded_value_size = (a.value_size + 15) / 16 * 16;
  const auto fetch_keys = [&](int key_tile) {
    LoadTile<kKeys, kWidth, kSoftmaxThreads>(
        k_tile, Tiles::kRowStride, k + int64_t{key_tile * kKeys} * k_stride, k_stride,
        tile.keys - key_tile * kKeys, a.key_size, padded_key_size, a.keys_aligned);
  };
  const auto fetch_values = [&](int key_tile) {
    LoadTile<kKeys, kWidth, kSoftmaxThreads>(
        v_tile, Tiles::kColumnStride, v + int64_t{key_tile * kKeys} * v_stride, v_stride,
        tile.keys - key_tile * kKeys, a.value_size, padded_value_size, a.values_aligned);
  };

  LoadTile<kSoftmaxQueries, kWidth, kSoftmaxThreads>(q_tile, Tiles::kRowStride, q, q_stride,
                                                     tile.rows, a.key_size, padded_key_size,
                                                     a.keys_aligned);
  FindBounds(a.mask, tile, rows, bounds);
  const KeyRange range =
      WithRule(a.mask, [&](const auto& rule) { return Candidates(rule, tile, bounds); });
  const int end_tile = (min(range.end, tile.keys) + kKeys - 1) / kKeys;

  const int warp_row = threadIdx.x / kWarpSize * 16;
  const float sink = a.sinks != nullptr ? a.sinks[head] * kLog2E : -INFINITY;
  // A weight of zero times an infinite value is NaN, also where the key must not be read. Where NaN
  // comes out, all is computed once more, carefully.
  for (bool careful = false;; careful = true) {
    OnlineSoftmax softmax;
    float o[kValueBlocks][2][4] = {};

    for (int base = max(range.begin, 0) / kKeys; base < end_tile; base += kSoftmaxThreads) {
      const int count = ListTiles<kKeys>(a.mask, tile, bounds, base, end_tile, list);
      if (count > 0) fetch_keys(list.entries[0] / 2);
      for (int n = 0; n < count; ++n) {
        const int key_tile = list.entries[n] / 2;
        const bool check = list.entries[n] % 2 != 0;
        WaitForCopies();
        __syncthreads();
        fetch_values(key_tile);
        // Before the scores, while registers are free.
        uint64_t allowed[2];
        if (check) AllowedKeys<kKeys>(a.mask, tile, rows, key_tile * kKeys, allowed);

        typename Product::Accumulator products[kKeys / 16];
#pragma unroll 2
        for (int c = 0; c < padded_key_size; c += Product::kStep) {
          const auto q_part =
              Product::LoadA(q_tile + warp_row * Tiles::kRowStride + c, Tiles::kRowStride);
#pragma unroll
          for (int j = 0; j < kKeys / 16; ++j) {
            const auto k_part =
                Product::LoadByRow(k_tile + j * 16 * Tiles::kRowStride + c, Tiles::kRowStride);
            Product::Multiply(q_part, k_part, products[j]);
          }
        }

        float score[kScoreBlocks][4];
#pragma unroll
        for (int j = 0; j < kScoreBlocks; ++j) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            score[j][i] = products[j / 2].Value(j % 2, i) * a.score_scale;
          }
        }
        if (a.softcap_scale != 0) {
#pragma unroll
          for (int j = 0; j < kScoreBlocks; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) score[j][i] = tanhf(score[j][i]) * a.softcap_scale;
          }
        }
        if (check) {
#pragma unroll
          for (int j = 0; j < kScoreBlocks; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              const int column = j * 8 + Lane() % 4 * 2 + i % 2;
              if (!(allowed[i / 2] >> column & 1)) score[j][i] = -INFINITY;
            }
          }
        }
        float rescale[2];
        softmax.Add(score, rescale);
        typename Product::A weights[kKeySteps];
#pragma unroll
        for (int step = 0; step < kKeySteps; ++step) {
          weights[step] = Product::FromAccumulators(score + step * (Product::kStep / 8));
        }

        WaitForCopies();
        __syncthreads();
        if (n + 1 < count) fetch_keys(list.entries[n + 1] / 2);
        // A sum of its own for each tile: what the tensor core truncates does not pile up over the
        // keys.
        const auto add = [&](const auto& factors, auto values, auto into) {
#pragma unroll
          for (int c = 0; c < kValueBlocks; ++c) {
            if (c * 16 >= padded_value_size) break;
            typename Product::Accumulator sum;
#pragma unroll
            for (int step = 0; step < kKeySteps; ++step) {
              const auto v_part = Product::LoadByColumn(
                  v_tile + step * Product::kStep * Tiles::kColumnStride + c * 16,
                  Tiles::kColumnStride);
              Product::Multiply(factors[step], values(v_part), sum);
            }
#pragma unroll
            for (int i = 0; i < 8; ++i)
              into(o[c][i / 4][i % 4], i % 4 / 2, sum.Value(i / 4, i % 4));
          }
        };
        const auto add_weighted = [&](float& value, int row, float sum) {
          value = value * rescale[row] + sum;
        };
        if (!careful) {
          add(
              weights, [](const auto& v) { return v; }, add_weighted);
          continue;
        }
        add(
            weights, [](const auto& v) { return Product::Pick(v, Part::kFinite); }, add_weighted);
        // Infinities by the keys that a row may read.
#pragma unroll
        for (int j = 0; j < kScoreBlocks; ++j) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int column = j * 8 + Lane() % 4 * 2 + i % 2;
            score[j][i] = !check || (allowed[i / 2] >> column & 1) ? 1.0f : 0.0f;
          }
        }
#pragma unroll
        for (int step = 0; step < kKeySteps; ++step) {
          weights[step] = Product::FromAccumulators(score + step * (Product::kStep / 8));
        }
#pragma unroll 1
        for (int minus = 0; minus < 2; ++minus) {
          const Part part = minus != 0 ? Part::kMinusInfinity : Part::kPlusInfinity;
          add(
              weights, [part](const auto& v) { return Product::Pick(v, part); },
              [part](float& value, int, float sum) {
                if (sum > 0) value += part == Part::kMinusInfinity ? -INFINITY : INFINITY;
              });
        }
      }
    }

    WaitForCopies();
    float lse[2], factor[2];
    bool nan = false;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      factor[half] = softmax.Finish(half, sink, &lse[half]);
      if (warp_row + half * 8 + Lane() / 4 >= tile.rows) continue;
#pragma unroll
      for (int c = 0; c < kValueBlocks; ++c) {
#pragma unroll
        for (int i = 0; i < 4; ++i) nan |= isnan(o[c][i / 2][half * 2 + i % 2]);
      }
    }
    if (!careful && __syncthreads_or(nan)) continue;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = warp_row + half * 8 + Lane() / 4;
      if (row >= tile.rows) continue;
      const int64_t at = (first_query + row) * a.heads + head;
      if (a.lse != nullptr && Lane() % 4 == 0) a.lse[at] = lse[half];
      T* const out = static_cast<T*>(a.o) + at * a.value_size;
#pragma unroll
      for (int c = 0; c < kValueBlocks; ++c) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int column = c * 16 + i / 2 * 8 + Lane() % 4 * 2 + i % 2;
          if (column < a.value_size) {
            out[column] = static_cast<T>(o[c][i / 2][half * 2 + i % 2] * factor[half]);
          }
        }
      }
    }
    return;
  }
}

// f(kWidth) for the narrowest tiles that hold heads of `width`.
template <typename F>
auto WithWidth(int width, F f) {
  if (width <= 32) return f(std::integral_constant<int, 32>());
  if (width <= 64) return f(std::integral_constant<int, 64>());
  if (width <= 128) return f(std::integral_constant<int, 128>());
  return f(std::integral_constant<int, 256>());
}

template <typename T>
int SoftmaxSharedMemory(int width) {
  constexpr size_t kStatic =
      kSoftmaxQueries * sizeof(RowBounds) + sizeof(TileBounds) + sizeof(TileList);
  return WithWidth(width, [](auto w) { return SoftmaxTiles<T, w()>::kBytes; }) +
         static_cast<int>(kStatic);
}

template <typename T, int kWidth>
cudaError_t LaunchSoftmaxOfWidth(const SoftmaxArguments& arguments, unsigned blocks,
                                 cudaStream_t stream) {
  constexpr int kBytes = SoftmaxTiles<T, kWidth>::kBytes;
  const auto kernel = SoftmaxKernel<T, kWidth>;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error != cudaSuccess) return error;
  kernel<<<blocks, kSoftmaxThreads, kBytes, stream>>>(arguments);
  return cudaGetLastError();
}

template <typename T>
cudaError_t LaunchSoftmax(const SoftmaxArguments& arguments, unsigned blocks, cudaStream_t stream) {
  return WithWidth(max(arguments.key_size, arguments.value_size),
                   [&](auto w) { return LaunchSoftmaxOfWidth<T, w()>(arguments, blocks, stream); });
}

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CORES_SOFTMAX_KERNEL_CUH_
