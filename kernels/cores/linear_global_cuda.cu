#include <algorithm>

#include "absl/status/statusor.h"
#include "kernels/cores/feature_maps.cuh"
#include "kernels/cores/linear_global_cuda.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/launch.h"

namespace attnd::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpSize;
constexpr int kSide = 64;          // Of the tiles of M and of outputs: 16 rows to a warp.
constexpr int kKeysPerStep = 32;   // Keys that are summed at a time.
constexpr int kDepthPerStep = 32;  // Channels of K that a read-out sums at a time.
constexpr int kTilePad = Fragments<float>::kColumnPad;
constexpr int kQueryPad = Fragments<float>::kRowPad;
constexpr int64_t kMinKeysPerSlice = 256;
constexpr int64_t kMaxSlices = 64;

using Product = Fragments<float>;

struct Sizes {
  int64_t batch, queries, keys;
  int heads, key_heads, value_heads, sum_heads, out_heads;  // H, HK, HV, max(HK,HV), HO.
  int key_size, value_size;
  int padded_key_size;  // A multiple of 32.

  // A head's sums: M [K,V], z [K], sum of v [V], number of keys.
  __host__ __device__ int64_t record() const {
    return int64_t{key_size} * value_size + key_size + value_size + 1;
  }
  __host__ __device__ int64_t z_at() const { return int64_t{key_size} * value_size; }
  __host__ __device__ int64_t mean_at() const { return z_at() + key_size; }
  __host__ __device__ int64_t count_at() const { return mean_at() + value_size; }
};

struct Turn {
  const float* rows;  // Null: no turn.
  const float* columns;
  int width;
};

// tile[r, c] = source[first + r * row_stride + c], zero beyond rows and columns.
__device__ void LoadRows(float* tile, int stride, int tile_rows, int tile_columns,
                         const Elements& source, int64_t first, int64_t row_stride, int rows,
                         int columns) {
  for (int r = threadIdx.x / kWarpSize; r < tile_rows; r += kWarps) {
    for (int c = Lane(); c < tile_columns; c += kWarpSize) {
      tile[r * stride + c] =
          r < rows && c < columns ? source.Load(first + r * row_stride + c) : 0.0f;
    }
  }
}

// Turns the pairs of rows in place; row r is the token first_token + r.
__device__ void TurnRows(float* tile, int stride, int rows, int key_size, int64_t first_token,
                         const Turn& turn) {
  const int quarter = key_size / 4;
  for (int r = threadIdx.x / kWarpSize; r < rows; r += kWarps) {
    const int64_t token = first_token + r;
    const float* const by_row = turn.rows + token / turn.width * quarter * 2;
    const float* const by_column = turn.columns + token % turn.width * quarter * 2;
    for (int p = Lane(); p < 2 * quarter; p += kWarpSize) {
      const float* const angle = p < quarter ? by_row + 2 * p : by_column + 2 * (p - quarter);
      float& a = tile[r * stride + 2 * p];
      float& b = tile[r * stride + 2 * p + 1];
      const float turned = a * angle[0] - b * angle[1];
      b = b * angle[0] + a * angle[1];
      a = turned;
    }
  }
}

struct SumArguments {
  Elements k, v;
  const bool* key_mask;
  const float* key_weight;
  FeatureMap map;
  Turn turn;
  Sizes sizes;
  int64_t keys_per_slice;
  int slices;
  int key_tiles, value_tiles;
  float* partial;  // [B,HM,slices,record]
};

// One tile of M over one slice of the keys of one head. The tiles on the borders add up z and the
// values.
__global__ void __launch_bounds__(kThreads) SumSliceKernel(const __grid_constant__ SumArguments a) {
  extern __shared__ __align__(16) float memory[];
  const Sizes& s = a.sizes;
  const int k_stride = s.padded_key_size + kTilePad;
  constexpr int kValueStride = kSide + kTilePad;
  float* const k_tile = memory;
  float* const v_tile = k_tile + kKeysPerStep * k_stride;
  __shared__ float weights[kKeysPerStep];  // 0 for a masked key.
  __shared__ bool kept[kKeysPerStep];

  int64_t block = blockIdx.x;
  const int value_tile = static_cast<int>(block % a.value_tiles);
  block /= a.value_tiles;
  const int key_tile = static_cast<int>(block % a.key_tiles);
  block /= a.key_tiles;
  float* const partial = a.partial + block * s.record();
  const int64_t slice = block % a.slices;
  const int64_t sum_head = block / a.slices % s.sum_heads;
  const int64_t row = block / a.slices / s.sum_heads;
  const int64_t key_head = sum_head / (s.sum_heads / s.key_heads);
  const int64_t value_head = sum_head / (s.sum_heads / s.value_heads);
  const int64_t begin = slice * a.keys_per_slice;
  const int64_t end = min(begin + a.keys_per_slice, s.keys);
  const int first_channel = key_tile * kSide;
  const int first_column = value_tile * kSide;
  const int warp_row = threadIdx.x / kWarpSize * 16;

  float m[kSide / 16][2][4] = {};
  float border_sum = 0;  // Threads below kSide: of z; the others: of the values.
  int count = 0;
  for (int64_t first = begin; first < end; first += kKeysPerStep) {
    const int rows = static_cast<int>(min(int64_t{kKeysPerStep}, end - first));
    __syncthreads();
    LoadRows(k_tile, k_stride, kKeysPerStep, s.padded_key_size, a.k,
             ((row * s.keys + first) * s.key_heads + key_head) * s.key_size,
             int64_t{s.key_heads} * s.key_size, rows, s.key_size);
    LoadRows(v_tile, kValueStride, kKeysPerStep, kSide, a.v,
             ((row * s.keys + first) * s.value_heads + value_head) * s.value_size + first_column,
             int64_t{s.value_heads} * s.value_size, rows, s.value_size - first_column);
    if (threadIdx.x < kKeysPerStep) {
      const int64_t key = first + threadIdx.x;
      const bool keep =
          threadIdx.x < rows && (a.key_mask == nullptr || a.key_mask[row * s.keys + key]);
      kept[threadIdx.x] = keep;
      float weight = keep ? 1.0f : 0.0f;
      if (keep && a.key_weight != nullptr) {
        weight = a.key_weight[(row * s.sum_heads + sum_head) * s.keys + key];
      }
      weights[threadIdx.x] = weight;
    }
    __syncthreads();
    for (int r = threadIdx.x / kWarpSize; r < kKeysPerStep; r += kWarps) {
      float* const features = k_tile + r * k_stride;
      if (!kept[r]) {
        for (int c = Lane(); c < s.key_size; c += kWarpSize) features[c] = 0;
        for (int c = Lane(); c < kSide; c += kWarpSize) v_tile[r * kValueStride + c] = 0;
        continue;
      }
      ApplyToRow(a.map, features, s.key_size);
      for (int c = Lane(); c < s.key_size; c += kWarpSize) features[c] *= weights[r];
    }
    __syncthreads();
    if (threadIdx.x < kSide) {
      const int channel = first_channel + threadIdx.x;
      if (value_tile == 0 && channel < s.key_size) {
        for (int r = 0; r < kKeysPerStep; ++r) border_sum += k_tile[r * k_stride + channel];
      }
      if (threadIdx.x == 0) {
        for (int r = 0; r < kKeysPerStep; ++r) count += kept[r];
      }
    } else if (key_tile == 0) {
      for (int r = 0; r < kKeysPerStep; ++r)
        border_sum += v_tile[r * kValueStride + threadIdx.x - kSide];
    }
    if (a.turn.rows != nullptr) {
      __syncthreads();
      TurnRows(k_tile, k_stride, rows, s.key_size, first, a.turn);
      __syncthreads();
    }
    if (first_channel + warp_row >= s.padded_key_size) continue;
    Product::Accumulator sums[kSide / 16];
#pragma unroll
    for (int step = 0; step < kKeysPerStep; step += Product::kStep) {
      const auto features =
          Product::LoadAByColumn(k_tile + step * k_stride + first_channel + warp_row, k_stride);
#pragma unroll
      for (int c = 0; c < kSide / 16; ++c) {
        const auto values =
            Product::LoadByColumn(v_tile + step * kValueStride + c * 16, kValueStride);
        Product::Multiply(features, values, sums[c]);
      }
    }
#pragma unroll
    for (int c = 0; c < kSide / 16; ++c) {
#pragma unroll
      for (int i = 0; i < 8; ++i) m[c][i / 4][i % 4] += sums[c].Value(i / 4, i % 4);
    }
  }

#pragma unroll
  for (int c = 0; c < kSide / 16; ++c) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int channel = first_channel + warp_row + Lane() / 4 + i % 4 / 2 * 8;
      const int column = first_column + c * 16 + i / 4 * 8 + Lane() % 4 * 2 + i % 2;
      if (channel < s.key_size && column < s.value_size) {
        partial[int64_t{channel} * s.value_size + column] = m[c][i / 4][i % 4];
      }
    }
  }
  if (threadIdx.x < kSide) {
    const int channel = first_channel + threadIdx.x;
    if (value_tile == 0 && channel < s.key_size) partial[s.z_at() + channel] = border_sum;
    if (threadIdx.x == 0 && key_tile == 0 && value_tile == 0) partial[s.count_at()] = count;
  } else {
    const int column = first_column + threadIdx.x - kSide;
    if (key_tile == 0 && column < s.value_size) partial[s.mean_at() + column] = border_sum;
  }
}

// sums[head, e] = partial[head, 0, e] + partial[head, 1, e] + ..., in this order.
__global__ void AddSlicesKernel(const float* partial, int64_t heads, int slices, int64_t record,
                                float* sums) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= heads * record) return;
  const float* const first = partial + i / record * slices * record + i % record;
  float sum = 0;
  for (int slice = 0; slice < slices; ++slice) sum += first[slice * record];
  sums[i] = sum;
}

struct Epilogue {
  Elements conv_weight, conv_bias, gate;
  int height, width, kernel_height, kernel_width;
};

struct ReadArguments {
  Elements q, v, o;
  const float* sums;  // [B,HM,record]
  const float* query_weight;
  FeatureMap map;
  Turn turn;
  Sizes sizes;
  LinearReadout readout;
  float scale, eps;
  Epilogue epilogue;
  int query_tiles;
};

// What y is multiplied by, and the mean of the values that is subtracted.
struct Coefficients {
  float y;
  float mean;
};

__device__ Coefficients CoefficientsOf(const ReadArguments& a, float dot, int64_t row, int64_t head,
                                       int64_t query) {
  switch (a.readout) {
    case LinearReadout::kNormalize:
      return {a.scale / (a.scale * dot + a.eps), 0};
    case LinearReadout::kRectify: {
      const float r = a.scale / a.sizes.keys * dot;
      return {(1.0f + 1.0f / (r + a.eps)) * (a.scale / a.sizes.keys), r};
    }
    case LinearReadout::kWeight:
      return {a.query_weight[(row * a.sizes.out_heads + head) * a.sizes.queries + query], 0};
    default:
      return {a.scale, 0};
  }
}

// The value of the depthwise convolution at a token's place, for one channel of one head.
__device__ float Convolve(const ReadArguments& a, int64_t row, int64_t head, int64_t token,
                          int column) {
  const Sizes& s = a.sizes;
  const Epilogue& e = a.epilogue;
  const int64_t channel = head * s.value_size + column;
  const int y = static_cast<int>(token / e.width) - e.kernel_height / 2;
  const int x = static_cast<int>(token % e.width) - e.kernel_width / 2;
  float sum = e.conv_bias.defined() ? e.conv_bias.Load(channel) : 0.0f;
  for (int i = 0; i < e.kernel_height; ++i) {
    if (y + i < 0 || y + i >= e.height) continue;
    for (int j = 0; j < e.kernel_width; ++j) {
      if (x + j < 0 || x + j >= e.width) continue;
      const int64_t at = row * s.keys + int64_t{y + i} * e.width + x + j;
      sum += e.conv_weight.Load((channel * e.kernel_height + i) * e.kernel_width + j) *
             a.v.Load((at * s.value_heads + head) * s.value_size + column);
    }
  }
  return sum;
}

// 64 queries of one head against its sums.
__global__ void __launch_bounds__(kThreads) ReadOutKernel(const __grid_constant__ ReadArguments a) {
  extern __shared__ __align__(16) float memory[];
  const Sizes& s = a.sizes;
  const int q_stride = s.padded_key_size + kQueryPad;
  constexpr int kSumStride = kSide + kTilePad;
  float* const q_tile = memory;
  float* const m_tile = q_tile + kSide * q_stride;
  __shared__ Coefficients coefficients[kSide];

  const int64_t block = blockIdx.x;
  const int64_t first_query = block % a.query_tiles * kSide;
  const int64_t head = block / a.query_tiles % s.out_heads;
  const int64_t row = block / a.query_tiles / s.out_heads;
  const int rows = static_cast<int>(min(int64_t{kSide}, s.queries - first_query));
  const int64_t query_head = head / (s.out_heads / s.heads);
  const int64_t sum_head = head / (s.out_heads / s.sum_heads);
  const float* const sums = a.sums + (row * s.sum_heads + sum_head) * s.record();
  const int warp = threadIdx.x / kWarpSize;

  LoadRows(q_tile, q_stride, kSide, s.padded_key_size, a.q,
           ((row * s.queries + first_query) * s.heads + query_head) * s.key_size,
           int64_t{s.heads} * s.key_size, rows, s.key_size);
  __syncthreads();
  for (int r = warp; r < rows; r += kWarps) {
    float* const features = q_tile + r * q_stride;
    ApplyToRow(a.map, features, s.key_size);
    float dot = 0;
    if (a.readout == LinearReadout::kNormalize || a.readout == LinearReadout::kRectify) {
      for (int c = Lane(); c < s.key_size; c += kWarpSize) dot += features[c] * sums[s.z_at() + c];
      for (int step = kWarpSize / 2; step > 0; step /= 2) dot += __shfl_xor_sync(~0u, dot, step);
    }
    if (Lane() == 0) coefficients[r] = CoefficientsOf(a, dot, row, head, first_query + r);
  }
  if (a.turn.rows != nullptr) {
    __syncthreads();
    TurnRows(q_tile, q_stride, rows, s.key_size, first_query, a.turn);
  }

  for (int first_column = 0; first_column < s.value_size; first_column += kSide) {
    float y[kSide / 16][2][4] = {};
    for (int depth = 0; depth < s.padded_key_size; depth += kDepthPerStep) {
      __syncthreads();
      for (int r = warp; r < kDepthPerStep; r += kWarps) {
        for (int c = Lane(); c < kSide; c += kWarpSize) {
          const bool inside = depth + r < s.key_size && first_column + c < s.value_size;
          m_tile[r * kSumStride + c] =
              inside ? sums[int64_t{depth + r} * s.value_size + first_column + c] : 0.0f;
        }
      }
      __syncthreads();
      Product::Accumulator parts[kSide / 16];
#pragma unroll
      for (int step = 0; step < kDepthPerStep; step += Product::kStep) {
        const auto features =
            Product::LoadA(q_tile + warp * 16 * q_stride + depth + step, q_stride);
#pragma unroll
        for (int c = 0; c < kSide / 16; ++c) {
          const auto values =
              Product::LoadByColumn(m_tile + step * kSumStride + c * 16, kSumStride);
          Product::Multiply(features, values, parts[c]);
        }
      }
#pragma unroll
      for (int c = 0; c < kSide / 16; ++c) {
#pragma unroll
        for (int i = 0; i < 8; ++i) y[c][i / 4][i % 4] += parts[c].Value(i / 4, i % 4);
      }
    }
#pragma unroll
    for (int c = 0; c < kSide / 16; ++c) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int r = warp * 16 + Lane() / 4 + i % 4 / 2 * 8;
        const int column = first_column + c * 16 + i / 4 * 8 + Lane() % 4 * 2 + i % 2;
        if (r >= rows || column >= s.value_size) continue;
        float value = coefficients[r].y * y[c][i / 4][i % 4];
        if (a.readout == LinearReadout::kRectify) {
          value -= coefficients[r].mean * (sums[s.mean_at() + column] / sums[s.count_at()]);
        }
        const int64_t token = first_query + r;
        if (a.epilogue.conv_weight.defined()) value += Convolve(a, row, head, token, column);
        const int64_t at = ((row * s.queries + token) * s.out_heads + head) * s.value_size + column;
        if (a.epilogue.gate.defined()) value *= a.epilogue.gate.Load(at);
        a.o.Store(at, value);
      }
    }
  }
}

Sizes SizesOf(const LinearGlobalCall& call) {
  Sizes s;
  s.batch = call.q.dim(0);
  s.queries = call.q.dim(1);
  s.keys = call.k.dim(1);
  s.heads = static_cast<int>(call.q.dim(2));
  s.key_heads = static_cast<int>(call.k.dim(2));
  s.value_heads = static_cast<int>(call.v.dim(2));
  s.sum_heads = std::max(s.key_heads, s.value_heads);
  s.out_heads = std::max(s.heads, s.sum_heads);
  s.key_size = static_cast<int>(call.q.dim(3));
  s.value_size = static_cast<int>(call.v.dim(3));
  s.padded_key_size = (s.key_size + kWarpSize - 1) / kWarpSize * kWarpSize;
  return s;
}

Turn TurnOf(const AxialTurn& turn) {
  if (!turn.rows.defined()) return {nullptr, nullptr, 1};
  return {turn.rows.data<float>(), turn.columns.data<float>(),
          static_cast<int>(turn.columns.dim(0))};
}

template <typename T>
const T* DataOrNull(const Tensor& tensor) {
  return tensor.defined() ? tensor.data<T>() : nullptr;
}

// Sums of all keys: float32 [B,HM,record].
absl::StatusOr<Tensor> SumKeys(Backend& backend, const LinearGlobalCall& call, const Sizes& s) {
  SumArguments a;
  a.k = Elements(call.k);
  a.v = Elements(call.v);
  a.key_mask = DataOrNull<bool>(call.key_mask);
  a.key_weight = DataOrNull<float>(call.key_weight);
  a.map = call.feature_map;
  a.turn = TurnOf(call.turn);
  a.sizes = s;
  // A function of S alone: the order of summation must not depend on the batch.
  a.keys_per_slice = std::max(
      kMinKeysPerSlice, CeilDiv(CeilDiv(s.keys, kMaxSlices), int64_t{kKeysPerStep}) * kKeysPerStep);
  a.slices = static_cast<int>(CeilDiv(s.keys, a.keys_per_slice));
  a.key_tiles = CeilDiv(s.key_size, kSide);
  a.value_tiles = CeilDiv(s.value_size, kSide);
  const int64_t heads = s.batch * s.sum_heads;
  const absl::StatusOr<Tensor> sums = backend.Allocate(DType::kFloat32, {heads, s.record()});
  if (!sums.ok()) return sums;
  if (a.slices == 0) {
    backend.Fill(0, *sums);
    return sums;
  }
  const absl::StatusOr<Tensor> partial =
      backend.Allocate(DType::kFloat32, {heads, a.slices, s.record()});
  if (!partial.ok()) return partial;
  a.partial = partial->data<float>();

  const absl::StatusOr<unsigned> blocks = GridSize(heads * a.slices * a.key_tiles * a.value_tiles);
  if (!blocks.ok()) return blocks.status();
  const int bytes = kKeysPerStep * (s.padded_key_size + kTilePad + kSide + kTilePad) *
                    static_cast<int>(sizeof(float));
  SumSliceKernel<<<*blocks, kThreads, bytes, StreamOf(backend)>>>(a);
  if (absl::Status status = LaunchStatus("linear_global: sums"); !status.ok()) return status;

  const absl::StatusOr<unsigned> adders = GridSize(CeilDiv(heads * s.record(), int64_t{256}));
  if (!adders.ok()) return adders.status();
  AddSlicesKernel<<<*adders, 256, 0, StreamOf(backend)>>>(a.partial, heads, a.slices, s.record(),
                                                          sums->data<float>());
  if (absl::Status status = LaunchStatus("linear_global: slices"); !status.ok()) return status;
  return sums;
}

}  // namespace

absl::Status LinearGlobal(Backend& backend, const LinearGlobalCall& call) {
  const Sizes s = SizesOf(call);
  if (call.o.num_elements() == 0) return absl::OkStatus();
  const absl::StatusOr<Tensor> sums = SumKeys(backend, call, s);
  if (!sums.ok()) return sums.status();

  ReadArguments a;
  a.q = Elements(call.q);
  a.v = Elements(call.v);
  a.o = Elements(call.o);
  a.sums = sums->data<float>();
  a.query_weight = DataOrNull<float>(call.query_weight);
  a.map = call.feature_map;
  a.turn = TurnOf(call.turn);
  a.sizes = s;
  a.readout = call.readout;
  a.scale = static_cast<float>(call.scale);
  a.eps = static_cast<float>(call.eps);
  a.epilogue.conv_weight = Elements(call.epilogue.conv_weight);
  a.epilogue.conv_bias = Elements(call.epilogue.conv_bias);
  a.epilogue.gate = Elements(call.epilogue.gate);
  a.epilogue.height = static_cast<int>(call.epilogue.height);
  a.epilogue.width = static_cast<int>(call.epilogue.width);
  const bool convolves = call.epilogue.conv_weight.defined();
  a.epilogue.kernel_height = convolves ? static_cast<int>(call.epilogue.conv_weight.dim(1)) : 0;
  a.epilogue.kernel_width = convolves ? static_cast<int>(call.epilogue.conv_weight.dim(2)) : 0;
  a.query_tiles = static_cast<int>(CeilDiv(s.queries, int64_t{kSide}));

  const absl::StatusOr<unsigned> blocks = GridSize(s.batch * s.out_heads * a.query_tiles);
  if (!blocks.ok()) return blocks.status();
  const int bytes = (kSide * (s.padded_key_size + kQueryPad) + kDepthPerStep * (kSide + kTilePad)) *
                    static_cast<int>(sizeof(float));
  if (absl::Status status = LaunchStatus(
          "linear_global: read-out",
          cudaFuncSetAttribute(ReadOutKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
      !status.ok()) {
    return status;
  }
  ReadOutKernel<<<*blocks, kThreads, bytes, StreamOf(backend)>>>(a);
  return LaunchStatus("linear_global: read-out");
}

}  // namespace attnd::cuda
