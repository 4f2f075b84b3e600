// The Hopper layer, each piece against plain loops on the host. Skipped on other devices.
#include <algorithm>
#include <cmath>
#include <iostream>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/hopper/dependent_launch.cuh"
#include "kernels/cuda/hopper/matrix_move.cuh"
#include "kernels/cuda/hopper/swizzle.cuh"
#include "kernels/cuda/hopper/tile_copy.cuh"
#include "kernels/cuda/hopper/warp_roles.cuh"
#include "kernels/cuda/hopper/wgmma.cuh"

namespace attnd::cuda::hopper {
namespace {

constexpr int kTileBytes = 64 * kTileRowBytes;

// Memory of the device with a host copy.
template <typename T>
class Shared {
 public:
  explicit Shared(std::vector<T> host) : host_(std::move(host)) {
    EXPECT_EQ(cudaMalloc(&device_, host_.size() * sizeof(T)), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(device_, host_.data(), host_.size() * sizeof(T), cudaMemcpyHostToDevice),
              cudaSuccess);
  }
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  ~Shared() { cudaFree(device_); }

  T* device() { return device_; }
  const std::vector<T>& Fetch() {
    EXPECT_EQ(cudaMemcpy(host_.data(), device_, host_.size() * sizeof(T), cudaMemcpyDeviceToHost),
              cudaSuccess);
    return host_;
  }

 private:
  std::vector<T> host_;
  T* device_ = nullptr;
};

class HopperTest : public ::testing::Test {
 protected:
  void SetUp() override {
    int major = 0, minor = 0;
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) != cudaSuccess ||
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0) != cudaSuccess ||
        major != 9 || minor != 0) {
      cudaGetLastError();
      GTEST_SKIP() << "no Hopper device";
    }
    const auto seed = std::random_device()();
    RecordProperty("seed", static_cast<int>(seed));
    random_.seed(seed);
    std::cout << "seed " << seed << std::endl;
  }

  template <typename T>
  std::vector<T> Normal(int count) {
    std::normal_distribution<float> normal;
    std::vector<T> values(static_cast<size_t>(count));
    for (T& value : values) value = T(normal(random_));
    return values;
  }

  std::mt19937 random_;
};

// ---- Products ----

// Tiles of [rows,64] with rows of `x` [rows,columns] of any multiple of 64 columns, side by side.
template <typename T>
__device__ void PlaceTiles(const T* x, int rows, int columns, unsigned char* tiles) {
  for (int i = threadIdx.x; i < rows * columns; i += blockDim.x) {
    const int r = i / columns, c = i % columns;
    *reinterpret_cast<T*>(tiles + c / 64 * rows * kTileRowBytes + Swizzled(r, c % 64 / 8) +
                          c % 8 * 2) = x[i];
  }
}

// d [64,N] = start + a b, depth 64; a is [64,64] as [M,K] or [K,M], b as [N,64] or [64,N].
template <typename T, Along kA, Along kB, int N, bool kFromRegisters>
__global__ void Product(const T* a, const T* b, const float* start, float* d) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) unsigned char memory[];
  unsigned char* b_tiles = memory + kTileBytes;
  PlaceTiles(a, 64, 64, memory);
  if constexpr (kB == Along::kSummed) {
    PlaceTiles(b, N, 64, b_tiles);
  } else {
    PlaceTiles(b, 64, N, b_tiles);
  }
  FenceTiles();
  __syncthreads();
  const int t = threadIdx.x, row = t / 32 * 16 + t % 32 / 4;
  const auto at = [&](int i) { return (row + i % 4 / 2 * 8) * N + i / 4 * 8 + t % 4 * 2 + i % 2; };
  float sum[N / 2];
  for (int i = 0; i < N / 2; ++i) sum[i] = start[at(i)];
  uint32_t registers[4][4];
  for (int step = 0; step < 4; ++step) {
    for (int i = 0; i < 4; ++i) {
      const int r = row + i % 2 * 8, c = step * 16 + i / 2 * 8 + t % 4 * 2;
      registers[step][i] = *reinterpret_cast<const uint32_t*>(a + r * 64 + c);
    }
  }
  FenceRegisters();
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const uint32_t a_at =
        SharedAddress(memory) + step * (kA == Along::kSummed ? 32 : 16 * kTileRowBytes);
    const uint32_t b_at =
        SharedAddress(b_tiles) + step * (kB == Along::kSummed ? 32 : 16 * kTileRowBytes);
    const uint64_t b_operand = Operand<kB>(b_at, kTileBytes);
    if constexpr (kFromRegisters) {
      Multiply<T, kB>(sum, registers[step], b_operand, true);
    } else {
      Multiply<T, kA, kB>(sum, Operand<kA>(a_at, kTileBytes), b_operand, true);
    }
  }
  CommitProducts();
  WaitForProducts<0>();
  Settle(sum);
  for (int i = 0; i < N / 2; ++i) d[at(i)] = sum[i];
#endif
}

class ProductTest : public HopperTest {
 protected:
  template <typename T, Along kA, Along kB, int N, bool kFromRegisters>
  void Check() {
    const std::vector<T> a = Normal<T>(64 * 64), b = Normal<T>(64 * N);
    const std::vector<float> start = Normal<float>(64 * N);
    Shared<T> device_a(a), device_b(b);
    Shared<float> device_start(start), d(std::vector<float>(64 * N, NAN));
    ASSERT_EQ(Launch(Product<T, kA, kB, N, kFromRegisters>, dim3(1), kWarpgroup,
                     kTileBytes * (1 + N / 64 + 1), nullptr, false, device_a.device(),
                     device_b.device(), device_start.device(), d.device()),
              cudaSuccess);
    const std::vector<float>& got = d.Fetch();
    for (int m = 0; m < 64; ++m) {
      for (int n = 0; n < N; ++n) {
        double sum = start[m * N + n];
        for (int k = 0; k < 64; ++k) {
          sum += static_cast<double>(float(a[kA == Along::kSummed ? m * 64 + k : k * 64 + m])) *
                 static_cast<double>(float(b[kB == Along::kSummed ? n * 64 + k : k * N + n]));
        }
        ASSERT_NEAR(got[m * N + n], sum, 1e-4) << m << "," << n;
      }
    }
  }

  template <typename T, int N>
  void CheckLayouts() {
    Check<T, Along::kSummed, Along::kSummed, N, false>();
    Check<T, Along::kSummed, Along::kOther, N, false>();
    Check<T, Along::kOther, Along::kSummed, N, false>();
    Check<T, Along::kOther, Along::kOther, N, false>();
    Check<T, Along::kSummed, Along::kSummed, N, true>();
    Check<T, Along::kSummed, Along::kOther, N, true>();
  }
};

TEST_F(ProductTest, Bfloat16InEveryLayout) {
  CheckLayouts<__nv_bfloat16, 64>();
  CheckLayouts<__nv_bfloat16, 128>();
}

TEST_F(ProductTest, Float16InEveryLayout) {
  CheckLayouts<__half, 64>();
  CheckLayouts<__half, 128>();
}

TEST_F(ProductTest, ThirtyTwoColumns) {
  Check<__nv_bfloat16, Along::kSummed, Along::kSummed, 32, false>();
  Check<__half, Along::kSummed, Along::kSummed, 32, true>();
}

// ---- Tiles ----

__global__ void CopyTile(const __grid_constant__ CUtensorMap from,
                         const __grid_constant__ CUtensorMap to, TilePlace place, uint16_t* seen) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) unsigned char tile[];
  __shared__ Barrier full;
  if (threadIdx.x == 0) {
    full.Initialise(1);
    PublishBarriers();
    full.ArriveExpecting(kTileBytes);
    LoadTile(from, place, tile, full);
  }
  __syncthreads();
  full.Wait(0);
  for (int i = threadIdx.x; i < 64 * 64; i += blockDim.x) {
    uint16_t* element =
        reinterpret_cast<uint16_t*>(tile + Swizzled(i / 64, i % 64 / 8) + i % 8 * 2);
    seen[i] = *element;
    *element += 1;
  }
  FenceTiles();
  __syncthreads();
  if (threadIdx.x == 0) {
    StoreTile(to, place, tile);
    WaitForStores();
  }
#endif
}

TEST_F(HopperTest, TilesBeyondTheLastTokenAreZeroAndNotWritten) {
  constexpr int64_t kRows = 2, kTokens = 100, kHeads = 3, kWidth = 128;
  constexpr int kElements = kRows * kTokens * kHeads * kWidth;
  std::vector<uint16_t> values(kElements);
  for (int i = 0; i < kElements; ++i) values[i] = static_cast<uint16_t>(i % 60000 + 1);
  Shared<uint16_t> from(values), to(std::vector<uint16_t>(kElements, 0)),
      seen(std::vector<uint16_t>(64 * 64, 0xffff));
  CUtensorMap from_map, to_map;
  const auto encode = [&](Shared<uint16_t>& x, CUtensorMap* map) {
    return EncodeHeadTiles({x.device(), true, kRows, kTokens, kHeads, kWidth}, 64, map);
  };
  ASSERT_EQ(encode(from, &from_map), cudaSuccess);
  ASSERT_EQ(encode(to, &to_map), cudaSuccess);
  const TilePlace place = {64, 1, 70, 0};
  ASSERT_EQ(Launch(CopyTile, dim3(1), kWarpgroup, kTileBytes, nullptr, false, from_map, to_map,
                   place, seen.device()),
            cudaSuccess);
  const auto at = [&](int row, int token, int head, int channel) {
    return ((row * kTokens + token) * kHeads + head) * kWidth + channel;
  };
  std::vector<uint16_t> expected(kElements, 0);
  for (int r = 0; r < 64; ++r) {
    for (int c = 0; c < 64; ++c) {
      const int token = place.token + r;
      const bool inside = token < kTokens;
      const int64_t element = at(place.row, token, place.head, place.channel + c);
      ASSERT_EQ(seen.Fetch()[r * 64 + c], inside ? values[element] : 0) << r << "," << c;
      if (inside) expected[element] = static_cast<uint16_t>(values[element] + 1);
    }
  }
  EXPECT_EQ(to.Fetch(), expected);
}

TEST_F(HopperTest, AnImpossibleTileIsRefused) {
  CUtensorMap map;
  Shared<uint16_t> x(std::vector<uint16_t>(256));
  EXPECT_NE(EncodeHeadTiles({x.device(), true, 1, 1, 1, 64}, 512, &map), cudaSuccess);
}

// ---- Matrices between registers and shared memory ----

__global__ void MoveMatrices(const uint16_t* in, uint16_t* transposed, uint16_t* stored,
                             uint16_t* stored_transposed) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  __shared__ __align__(16) uint16_t matrices[4][8][8];
  const int lane = threadIdx.x;
  uint16_t* all = &matrices[0][0][0];
  const auto dump = [&](uint16_t* out) {
    __syncwarp();
    for (int i = lane; i < 256; i += 32) out[i] = all[i];
    __syncwarp();
  };
  for (int i = lane; i < 256; i += 32) all[i] = in[i];
  __syncwarp();
  const uint32_t row = SharedAddress(matrices[lane / 8][lane % 8]);
  uint32_t registers[4];
  LoadTransposed(row, registers);
  __syncwarp();
  StoreMatrices(row, registers);
  dump(transposed);
  // What a lane holds by the layout's definition.
  for (int i = 0; i < 4; ++i) {
    registers[i] = *reinterpret_cast<const uint32_t*>(in + i * 64 + lane / 4 * 8 + lane % 4 * 2);
  }
  StoreMatrices(row, registers);
  dump(stored);
  StoreTransposed(row, registers);
  dump(stored_transposed);
#endif
}

TEST_F(HopperTest, MatricesMoveAsTheirLayoutSays) {
  std::vector<uint16_t> values(256), turned(256);
  for (int i = 0; i < 256; ++i) {
    values[i] = static_cast<uint16_t>(i);
    turned[i] = static_cast<uint16_t>(i / 64 * 64 + i % 8 * 8 + i / 8 % 8);
  }
  Shared<uint16_t> in(values), a(values), b(std::vector<uint16_t>(256)),
      c(std::vector<uint16_t>(256));
  MoveMatrices<<<1, 32>>>(in.device(), a.device(), b.device(), c.device());
  EXPECT_EQ(a.Fetch(), turned);
  EXPECT_EQ(b.Fetch(), values);
  EXPECT_EQ(c.Fetch(), turned);
}

// ---- Rings, roles, dependent launches ----

constexpr int kStages = 3;

// A thread fills stages with tiles, a warpgroup sums them up and swaps halves through a barrier of
// its own.
__global__ void __launch_bounds__(2 * kWarpgroup, 1)
    SumTiles(const __grid_constant__ CUtensorMap map, int tiles, unsigned* sums) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ __align__(1024) unsigned char ring[];
  __shared__ Barrier full[kStages], empty[kStages];
  __shared__ unsigned shares[kWarpgroup];
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      full[i].Initialise(1);
      empty[i].Initialise(kWarpgroup);
    }
    PublishBarriers();
  }
  __syncthreads();
  RingPosition<kStages> at;
  if (threadIdx.x < kWarpgroup) {
    GiveUpRegisters<24>();
    if (threadIdx.x != 0) return;
    for (int i = 0; i < tiles; ++i, at.Advance()) {
      empty[at.stage()].Wait(at.phase() ^ 1);
      full[at.stage()].ArriveExpecting(kTileBytes);
      LoadTile(map, {0, 0, i * 64, 0}, ring + at.stage() * kTileBytes, full[at.stage()]);
    }
  } else {
    TakeRegisters<240>();
    const int thread = threadIdx.x - kWarpgroup;
    unsigned sum = 0;
    for (int i = 0; i < tiles; ++i, at.Advance()) {
      full[at.stage()].Wait(at.phase());
      if (!full[at.stage()].HasEnded(at.phase())) sum += 1u << 30;  // Must not happen.
      const auto* tile = reinterpret_cast<const uint16_t*>(ring + at.stage() * kTileBytes);
      for (int j = thread; j < 64 * 64; j += kWarpgroup) sum += tile[j] * (i + 1);
      empty[at.stage()].Arrive();
    }
    shares[thread] = sum;
    SyncThreads<kWarpgroup>(1);
    sums[thread] = sum + shares[kWarpgroup - 1 - thread];
  }
#endif
}

TEST_F(HopperTest, ARingHandsEveryTileOverOnce) {
  constexpr int kTiles = 20;
  std::vector<uint16_t> values(kTiles * 64 * 64);
  for (uint16_t& value : values) value = static_cast<uint16_t>(random_() % 1000);
  unsigned expected = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    expected += values[i] * static_cast<unsigned>(i / (64 * 64) + 1);
  }
  Shared<uint16_t> x(values);
  Shared<unsigned> sums(std::vector<unsigned>(kWarpgroup, 0));
  CUtensorMap map;
  ASSERT_EQ(EncodeHeadTiles({x.device(), false, 1, kTiles * 64, 1, 64}, 64, &map), cudaSuccess);
  ASSERT_EQ(Launch(SumTiles, dim3(1), 2 * kWarpgroup, kStages * kTileBytes, nullptr, false, map,
                   int{kTiles}, sums.device()),
            cudaSuccess);
  unsigned sum = 0;
  for (unsigned share : sums.Fetch()) sum += share;
  EXPECT_EQ(sum, 2 * expected);
}

__global__ void WriteLate(int* x) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  AllowNextKernel();
  const long long start = clock64();
  while (clock64() - start < 1'000'000) {
  }
  x[threadIdx.x] = 7;
#endif
}

__global__ void ReadEarly(const int* x, int* out) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  AwaitPreviousKernel();
  out[threadIdx.x] = x[threadIdx.x];
#endif
}

TEST_F(HopperTest, ADependentKernelSeesWhatTheOneBeforeWrote) {
  Shared<int> x(std::vector<int>(32, 1)), out(std::vector<int>(32, 2));
  ASSERT_EQ(Launch(WriteLate, dim3(1), 32, 0, nullptr, false, x.device()), cudaSuccess);
  ASSERT_EQ(Launch(ReadEarly, dim3(1), 32, 0, nullptr, true, static_cast<const int*>(x.device()),
                   out.device()),
            cudaSuccess);
  EXPECT_EQ(out.Fetch(), std::vector<int>(32, 7));
}

}  // namespace
}  // namespace attnd::cuda::hopper
