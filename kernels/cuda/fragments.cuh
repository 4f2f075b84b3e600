// What one warp multiplies on the tensor cores: registers that hold pieces of matrices in shared
// memory.
//
// Fragments<T> describes products c[16,16] += a[16,kStep] b[kStep,16] for elements T in shared
// memory, accumulated in float32:
//   half, bfloat16  one mma.m16n8k16 for each 8 columns
//   float           three mma.m16n8k8 in TF32: each factor is split into a leading and a trailing
//   part of
//                   11 bits, and all products but trailing x trailing are summed (Ootomo and
//                   Yokota, "Recovering single precision accuracy from Tensor Cores", 2022). The
//                   small terms have an accumulator of their own, because the tensor core truncates
//                   where it adds.
// A lane's elements of an accumulator c[4]: rows g, g, g + 8, g + 8 and columns 2t, 2t + 1, 2t, 2t
// + 1 with g = lane / 4 and t = lane % 4.
#ifndef ATTND_KERNELS_CUDA_FRAGMENTS_CUH_
#define ATTND_KERNELS_CUDA_FRAGMENTS_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace attnd::cuda {

inline constexpr int kWarpSize = 32;

// What Pick takes of a factor: its finite elements, zeros for the others; or ones where an element
// is infinite of one sign or NaN, zeros elsewhere.
enum class Part : uint8_t { kFinite, kPlusInfinity, kMinusInfinity };

// Of the bits of one element of a type.
template <uint32_t kSign, uint32_t kExponent, uint32_t kOne>
__device__ inline uint32_t PickBits(uint32_t bits, Part part) {
  const bool finite = (bits & kExponent) != kExponent;
  if (part == Part::kFinite) return finite ? bits : 0;
  const bool nan = (bits & ~kSign) > kExponent;
  const bool minus = (bits & kSign) != 0;
  return !finite && (nan || minus == (part == Part::kMinusInfinity)) ? kOne : 0;
}

__device__ inline int Lane() { return threadIdx.x % kWarpSize; }

template <typename T>
struct Fragments {
  static constexpr int kStep = 16;
  // Elements added to a tile's rows so that the reads below meet no bank twice; kRowPad for tiles
  // read by LoadA and LoadByRow, kColumnPad for LoadByColumn. A tile's width is a multiple of 32.
  static constexpr int kRowPad = 8;
  static constexpr int kColumnPad = 8;

  struct A {
    uint32_t x[4];
  };
  struct B {
    uint32_t x[2][2];
  };
  struct Accumulator {
    float c[2][4] = {};
    __device__ float Value(int block, int i) const { return c[block][i]; }
  };

  // a = tile[0..16, 0..16].
  __device__ static A LoadA(const T* tile, int stride) {
    A a;
    LoadMatrices<false>(tile + (Lane() % 16) * stride + Lane() / 16 * 8, a.x[0], a.x[1], a.x[2],
                        a.x[3]);
    return a;
  }
  // b[k,n] = tile[n,k].
  __device__ static B LoadByRow(const T* tile, int stride) {
    const int matrix = Lane() / 8;
    B b;
    LoadMatrices<false>(tile + (matrix / 2 * 8 + Lane() % 8) * stride + matrix % 2 * 8, b.x[0][0],
                        b.x[0][1], b.x[1][0], b.x[1][1]);
    return b;
  }
  // b[k,n] = tile[k,n].
  __device__ static B LoadByColumn(const T* tile, int stride) {
    const int matrix = Lane() / 8;
    B b;
    LoadMatrices<true>(tile + (matrix % 2 * 8 + Lane() % 8) * stride + matrix / 2 * 8, b.x[0][0],
                       b.x[0][1], b.x[1][0], b.x[1][1]);
    return b;
  }
  // A part of every element.
  __device__ static B Pick(const B& b, Part part) {
    B picked;
#pragma unroll
    for (int block = 0; block < 2; ++block) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        picked.x[block][i] = PickElement(b.x[block][i] & 0xffff, part) |
                             PickElement(b.x[block][i] >> 16, part) << 16;
      }
    }
    return picked;
  }
  // a[m,k] = c[m,k] for accumulators of kStep columns: c[0] holds columns 0..7, c[1] columns 8..15.
  __device__ static A FromAccumulators(const float (*c)[4]) {
    return {{Pack(c[0][0], c[0][1]), Pack(c[0][2], c[0][3]), Pack(c[1][0], c[1][1]),
             Pack(c[1][2], c[1][3])}};
  }

  __device__ static void Multiply(const A& a, const B& b, Accumulator& sum) {
#pragma unroll
    for (int block = 0; block < 2; ++block) {
      float(&c)[4] = sum.c[block];
      if constexpr (std::is_same_v<T, __half>) {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
            "{%8,%9}, "
            "{%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b.x[block][0]),
              "r"(b.x[block][1]));
      } else {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
            "{%8,%9}, "
            "{%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b.x[block][0]),
              "r"(b.x[block][1]));
      }
    }
  }

 private:
  __device__ static uint32_t PickElement(uint32_t bits, Part part) {
    if constexpr (std::is_same_v<T, __half>) {
      return PickBits<0x8000, 0x7c00, 0x3c00>(bits, part);
    } else {
      return PickBits<0x8000, 0x7f80, 0x3f80>(bits, part);
    }
  }
  template <bool kTransposed>
  __device__ static void LoadMatrices(const T* row, uint32_t& x0, uint32_t& x1, uint32_t& x2,
                                      uint32_t& x3) {
    const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    if constexpr (kTransposed) {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                   : "=r"(x0), "=r"(x1), "=r"(x2), "=r"(x3)
                   : "r"(address));
    } else {
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                   : "=r"(x0), "=r"(x1), "=r"(x2), "=r"(x3)
                   : "r"(address));
    }
  }
  __device__ static uint32_t Pack(float low, float high) {
    uint32_t bits;
    if constexpr (std::is_same_v<T, __half>) {
      asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    } else {
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
    }
    return bits;
  }
};

// The eight terms of a step may be summed in any order as long as a and b agree: slot t of a lane's
// pair holds term 2t and slot t + 4 holds term 2t + 1. An accumulator's columns then are a's terms
// as they stand, and a row's two terms are one 8-byte read.
template <>
struct Fragments<float> {
  static constexpr int kStep = 8;
  static constexpr int kRowPad = 8;
  static constexpr int kColumnPad = 4;

  struct A {
    uint32_t high[4];
    uint32_t low[4];
  };
  struct B {
    uint32_t high[2][2];
    uint32_t low[2][2];
  };
  struct Accumulator {
    float c[2][4] = {};
    float small[2][4] = {};
    // The leading parts alone tell what becomes of an infinite or NaN factor: its trailing part is
    // no number, and another factor's trailing part, of any sign or zero, says nothing.
    __device__ float Value(int block, int i) const {
      const float leading = c[block][i];
      return fabsf(leading) < INFINITY ? leading + small[block][i] : leading;
    }
  };

  __device__ static A LoadA(const float* tile, int stride) {
    const float* at = tile + Lane() / 4 * stride + Lane() % 4 * 2;
    const float2 upper = *reinterpret_cast<const float2*>(at);
    const float2 lower = *reinterpret_cast<const float2*>(at + 8 * stride);
    return MakeA(upper.x, lower.x, upper.y, lower.y);
  }
  // a[m,k] = tile[k,m].
  __device__ static A LoadAByColumn(const float* tile, int stride) {
    const float* at = tile + Lane() % 4 * 2 * stride + Lane() / 4;
    return MakeA(at[0], at[8], at[stride], at[stride + 8]);
  }
  __device__ static B LoadByRow(const float* tile, int stride) {
    const float* at = tile + Lane() / 4 * stride + Lane() % 4 * 2;
    B b;
#pragma unroll
    for (int block = 0; block < 2; ++block) {
      const float2 pair = *reinterpret_cast<const float2*>(at + block * 8 * stride);
      Split(pair.x, b.high[block][0], b.low[block][0]);
      Split(pair.y, b.high[block][1], b.low[block][1]);
    }
    return b;
  }
  __device__ static B LoadByColumn(const float* tile, int stride) {
    const float* at = tile + Lane() % 4 * 2 * stride + Lane() / 4;
    B b;
#pragma unroll
    for (int block = 0; block < 2; ++block) {
      Split(at[block * 8], b.high[block][0], b.low[block][0]);
      Split(at[block * 8 + stride], b.high[block][1], b.low[block][1]);
    }
    return b;
  }
  __device__ static B Pick(const B& b, Part part) {
    B picked;
#pragma unroll
    for (int block = 0; block < 2; ++block) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t high = PickBits<0x80000000, 0x7f800000, 0x3f800000>(b.high[block][i], part);
        picked.high[block][i] = high;
        picked.low[block][i] = part == Part::kFinite && high != 0 ? b.low[block][i] : 0;
      }
    }
    return picked;
  }
  __device__ static A FromAccumulators(const float (*c)[4]) {
    return MakeA(c[0][0], c[0][2], c[0][1], c[0][3]);
  }

  __device__ static void Multiply(const A& a, const B& b, Accumulator& sum) {
#pragma unroll
    for (int block = 0; block < 2; ++block) {
      MultiplyTf32(sum.small[block], a.low, b.high[block]);
      MultiplyTf32(sum.small[block], a.high, b.low[block]);
      MultiplyTf32(sum.c[block], a.high, b.high[block]);
    }
  }

 private:
  // x = high + low + O(2^-22 x); high is x and low NaN if x is infinite or NaN.
  __device__ static void Split(float x, uint32_t& high, uint32_t& low) {
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(high) : "f"(x));
    // From here on rounding would go to infinity: cut off instead.
    constexpr float kRoundsToInfinity = 0x1.ffep127f;
    if (fabsf(x) >= kRoundsToInfinity) high = __float_as_uint(x) & 0xffffe000;
    const float rest = x - __uint_as_float(high);
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(low) : "f"(rest));
  }
  __device__ static A MakeA(float x0, float x1, float x2, float x3) {
    A a;
    Split(x0, a.high[0], a.low[0]);
    Split(x1, a.high[1], a.low[1]);
    Split(x2, a.high[2], a.low[2]);
    Split(x3, a.high[3], a.low[3]);
    return a;
  }
  __device__ static void MultiplyTf32(float (&c)[4], const uint32_t (&a)[4],
                                      const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
};

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CUDA_FRAGMENTS_CUH_
