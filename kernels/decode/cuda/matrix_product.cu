// Few rows times a weight matrix: y[m,n] = sum_k x[m,k] W[n,k].
#include "kernels/cuda/fragments.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/decode/cuda/step_kernels.h"

namespace attnd::decode {
namespace {

using cuda::Fragments;

constexpr int kThreads = 128;  // Four warps, side by side in n.
constexpr int kN = 64;

// Tiles of kM rows, kK inner terms at a time, kStages of them under way. Few rows: their time is
// the memory's latency, so that most of a usual inner size is asked for at once. The chains of sums
// are the same.
template <typename W>
struct FewRows {
  static constexpr int kM = 16, kK = sizeof(W) == 2 ? 128 : 64, kStages = sizeof(W) == 2 ? 3 : 4;
};
struct ManyRows {
  static constexpr int kM = 64, kK = 32, kStages = 3;
};
constexpr int kRowPad = 8;

__device__ void CopyAsync(void* to, const void* from, int bytes) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
               "r"(bytes));
}

// Products of one 16 x 16 block, x rows kPad apart, in parts that W's type asks for.
template <typename W, int kPad>
struct Block;

// x = high + low + O(2^-17 x), each a bfloat16; W is exact.
template <int kPad>
struct Block<__nv_bfloat16, kPad> {
  using F = Fragments<__nv_bfloat16>;
  typename F::Accumulator high, low;

  __device__ static void Split(float2 x, uint32_t& high, uint32_t& low) {
    const __nv_bfloat162 h = __float22bfloat162_rn(x);
    const float2 back = __bfloat1622float2(h);
    const __nv_bfloat162 l = __float22bfloat162_rn(make_float2(x.x - back.x, x.y - back.y));
    high = *reinterpret_cast<const uint32_t*>(&h);
    low = *reinterpret_cast<const uint32_t*>(&l);
  }

  __device__ void Multiply(const float* x, const typename F::B& b) {
    const float* at = x + cuda::Lane() / 4 * kPad + cuda::Lane() % 4 * 2;
    typename F::A a, rest;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      Split(*reinterpret_cast<const float2*>(at + i % 2 * 8 * kPad + i / 2 * 8), a.x[i], rest.x[i]);
    }
    F::Multiply(a, b, high);
    F::Multiply(rest, b, low);
  }
  __device__ float Value(int block, int i) const { return high.c[block][i] + low.c[block][i]; }
};

template <int kPad>
struct Block<float, kPad> {
  using F = Fragments<float>;
  typename F::Accumulator sum;

  __device__ void Multiply(const float* x, const typename F::B& b) {
    F::Multiply(F::LoadA(x, kPad), b, sum);
  }
  __device__ float Value(int block, int i) const { return sum.Value(block, i); }
};

template <typename W, typename Tile>
struct Tiles {
  float x[Tile::kStages][Tile::kM][Tile::kK + kRowPad];
  W w[Tile::kStages][kN][Tile::kK + kRowPad];
};

template <typename W, typename Tile>
__global__ void __launch_bounds__(kThreads)
    ProductKernel(const W* w, int64_t w_stride, int inputs, int outputs, const float* x,
                  int64_t x_stride, int rows, const float* bias, float* y, int64_t y_stride,
                  bool accumulate) {
  extern __shared__ __align__(16) char memory[];
  auto& tiles = *reinterpret_cast<Tiles<W, Tile>*>(memory);
  constexpr int kM = Tile::kM, kK = Tile::kK, kStages = Tile::kStages, kPad = kK + kRowPad;
  using F = typename Block<W, kPad>::F;
  const int n0 = blockIdx.x * kN, m0 = blockIdx.y * kM;
  const int steps = (inputs + kK - 1) / kK;

  const auto load = [&](int step) {
    const int stage = step % kStages, k0 = step * kK;
    for (int i = threadIdx.x; i < kM * (kK / 4); i += kThreads) {
      const int r = i / (kK / 4), c = i % (kK / 4) * 4;
      // Beyond the rows and the inner size: zeros.
      const int left = m0 + r < rows ? min(max(inputs - k0 - c, 0), 4) * 4 : 0;
      const float* from = left > 0 ? x + (m0 + r) * x_stride + k0 + c : x;
      CopyAsync(&tiles.x[stage][r][c], from, left);
    }
    constexpr int kPiece = 16 / sizeof(W);
    for (int i = threadIdx.x; i < kN * (kK / kPiece); i += kThreads) {
      const int r = i / (kK / kPiece), c = i % (kK / kPiece) * kPiece;
      // W's rows end in zeros at a multiple of kMatrixColumns, a tile perhaps later.
      const bool inside = k0 + c < w_stride;
      CopyAsync(&tiles.w[stage][r][c], inside ? w + (n0 + r) * w_stride + k0 + c : w,
                inside ? 16 : 0);
    }
  };

  Block<W, kPad> blocks[kM / 16];
  const int warp = threadIdx.x / cuda::kWarpSize;
  for (int step = 0; step < kStages - 1; ++step) {
    if (step < steps) load(step);
    asm volatile("cp.async.commit_group;");
  }
  for (int step = 0; step < steps; ++step) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 2));
    __syncthreads();
    if (step + kStages - 1 < steps) load(step + kStages - 1);
    asm volatile("cp.async.commit_group;");
    const int stage = step % kStages;
    const int terms = min(kK, static_cast<int>(w_stride) - step * kK);
#pragma unroll
    for (int k = 0; k < kK; k += F::kStep) {
      if (k >= terms) break;
      const auto b = F::LoadByRow(&tiles.w[stage][warp * 16][k], kPad);
#pragma unroll
      for (int m = 0; m < kM / 16; ++m) blocks[m].Multiply(&tiles.x[stage][m * 16][k], b);
    }
  }
  const int lane = cuda::Lane();
#pragma unroll
  for (int m = 0; m < kM / 16; ++m) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int row = m0 + m * 16 + lane / 4 + i % 4 / 2 * 8;
      const int column = n0 + warp * 16 + i / 4 * 8 + lane % 4 * 2 + i % 2;
      if (row >= rows || column >= outputs) continue;
      float* to = y + row * y_stride + column;
      const float sum = blocks[m].Value(i / 4, i % 4);
      const float value = bias != nullptr ? sum + bias[column] : sum;
      *to = accumulate ? *to + value : value;
    }
  }
}

template <typename W, typename Tile>
cudaError_t Launch(const DeviceMatrix& w, const float* x, int64_t x_stride, int64_t rows, float* y,
                   int64_t y_stride, bool accumulate, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(cuda::CeilDiv(w.outputs, int64_t{kN})),
                  static_cast<unsigned>(cuda::CeilDiv(rows, int64_t{Tile::kM})));
  constexpr int kBytes = sizeof(Tiles<W, Tile>);
  static const cudaError_t allowed = cudaFuncSetAttribute(
      ProductKernel<W, Tile>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (allowed != cudaSuccess) return allowed;
  ProductKernel<W, Tile><<<grid, kThreads, kBytes, stream>>>(
      static_cast<const W*>(w.data), w.stride, static_cast<int>(w.inputs),
      static_cast<int>(w.outputs), x, x_stride, static_cast<int>(rows), w.bias, y, y_stride,
      accumulate);
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchMatrixProduct(const DeviceMatrix& w, const float* x, int64_t x_stride,
                                int64_t rows, float* y, int64_t y_stride, bool accumulate,
                                cudaStream_t stream) {
  if (rows == 0 || w.outputs == 0) return cudaSuccess;
  // A row's sums are the same chains whatever the tile's height.
  constexpr int64_t kFew = 64;
  const auto launch =
      w.bfloat16 ? (rows <= kFew ? Launch<__nv_bfloat16, FewRows<__nv_bfloat16>>
                                 : Launch<__nv_bfloat16, ManyRows>)
                 : (rows <= kFew ? Launch<float, FewRows<float>> : Launch<float, ManyRows>);
  return launch(w, x, x_stride, rows, y, y_stride, accumulate, stream);
}

}  // namespace attnd::decode
