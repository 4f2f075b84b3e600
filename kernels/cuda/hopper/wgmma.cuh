// Products of tiles by a warpgroup's tensor cores (PTX ISA, "wgmma.mma_async"): D[64,N] (+)=
// A[64,16] B[16,N] with float32 sums in registers, two-byte elements of A in registers or shared
// memory and of B in shared memory, in the layout of swizzle.cuh.
//
// Thread t of the warpgroup holds of D, in d[4 j + i], row 16 (t / 32) + t mod 32 / 4 + 8 (i / 2)
// and column 8 j + 2 (t mod 4) + i mod 2. As registers of A, sixteen columns of such rows: a[i]
// packs columns 8 (i / 2) + 2 (t mod 4) and the next of row + 8 (i mod 2).
//
// A sequence is FenceRegisters, products, CommitProducts, WaitForProducts, Settle of what they
// wrote.
#ifndef ATTND_KERNELS_CUDA_HOPPER_WGMMA_CUH_
#define ATTND_KERNELS_CUDA_HOPPER_WGMMA_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace attnd::cuda::hopper {

// How an operand lies in shared memory: its rows of 128 bytes run along the summed index (A as
// [M,K], B as [N,K]), or along the other one (A as [K,M], B as [K,N]).
enum class Along : int { kSummed = 0, kOther = 1 };

// An operand's tile. kSummed: 64 summed indices a row, one 128-byte row for each of M or N; the
// next sixteen are 32 bytes on. kOther: 64 of M or N a row, one row for each summed index, so the
// next sixteen are 2048 bytes on; wider operands go on `block` bytes later.
template <Along kAlong>
__device__ uint64_t Operand(uint32_t address, uint32_t block = 0) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kEightRows = 1024 / 16;
  const uint64_t leading = kAlong == Along::kSummed ? 1 : block / 16;
  return kSwizzle128 | kEightRows << 32 | leading << 16 | ((address & 0x3ffff) / 16);
}

// Before the first product that reads registers which other instructions wrote.
__device__ inline void FenceRegisters() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

// Ends a group of products.
__device__ inline void CommitProducts() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Until all but the last kPending groups are done.
template <int kPending>
__device__ void WaitForProducts() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Keeps the compiler from moving uses of the registers across this point.
template <int kCount>
__device__ void Settle(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

#define ATTND_WGMMA_SS_32(TYPE)                                                                  \
  asm volatile(                                                                                  \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"                                               \
      "wgmma.mma_async.sync.aligned.m64n32k16.f32." TYPE "." TYPE                                \
      " "                                                                                        \
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, %16, %17, p, 1, " \
      "1, %19, %20;\n}\n"                                                                        \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),      \
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),  \
        "+f"(d[14]), "+f"(d[15])                                                                 \
      : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(kA)),                   \
        "n"(static_cast<int>(kB)))
#define ATTND_WGMMA_RS_32(TYPE)                                                                  \
  asm volatile(                                                                                  \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %21, 0;\n"                                               \
      "wgmma.mma_async.sync.aligned.m64n32k16.f32." TYPE "." TYPE                                \
      " "                                                                                        \
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, {%16, %17, %18, " \
      "%19}, %20, p, 1, 1, %22;\n}\n"                                                            \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),      \
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),  \
        "+f"(d[14]), "+f"(d[15])                                                                 \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)),          \
        "n"(static_cast<int>(kB)))
#define ATTND_WGMMA_SS_64(TYPE)                                                                    \
  asm volatile(                                                                                    \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"                                                 \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE                                  \
      " "                                                                                          \
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "     \
      "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, p, 1, 1, "      \
      "%35, %36;\n}\n"                                                                             \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),        \
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),    \
        "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), \
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), \
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])                                         \
      : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(kA)),                     \
        "n"(static_cast<int>(kB)))
#define ATTND_WGMMA_RS_64(TYPE)                                                                    \
  asm volatile(                                                                                    \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"                                                 \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE                                  \
      " "                                                                                          \
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "     \
      "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, "   \
      "%36, p, 1, 1, %38;\n}\n"                                                                    \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),        \
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),    \
        "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), \
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), \
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])                                         \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)),            \
        "n"(static_cast<int>(kB)))
#define ATTND_WGMMA_SS_128(TYPE)                                                                   \
  asm volatile(                                                                                    \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"                                                 \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE                                 \
      " "                                                                                          \
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "     \
      "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, " \
      "%37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, " \
      "%55, %56, %57, %58, %59, %60, %61, %62, %63}, %64, %65, p, 1, 1, %67, %68;\n}\n"            \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),        \
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),    \
        "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), \
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), \
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), \
        "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), \
        "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), \
        "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), \
        "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), \
        "+f"(d[63])                                                                                \
      : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(static_cast<int>(kA)),                     \
        "n"(static_cast<int>(kB)))
#define ATTND_WGMMA_RS_128(TYPE)                                                                   \
  asm volatile(                                                                                    \
      "{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n"                                                 \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE                                 \
      " "                                                                                          \
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, "     \
      "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, " \
      "%37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, " \
      "%55, %56, %57, %58, %59, %60, %61, %62, %63}, {%64, %65, %66, %67}, %68, p, 1, 1, "         \
      "%70;\n}\n"                                                                                  \
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]),        \
        "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]),    \
        "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), \
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), \
        "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), \
        "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), \
        "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), \
        "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), \
        "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), \
        "+f"(d[63])                                                                                \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)),            \
        "n"(static_cast<int>(kB)))

// D = A B, or D += A B if `add`, with A in shared memory.
template <typename T, Along kA, Along kB, int kCount>
__device__ void Multiply(float (&d)[kCount], uint64_t a, uint64_t b, bool add) {
  static_assert(kCount == 16 || kCount == 32 || kCount == 64, "N is 32, 64 or 128");
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    if constexpr (kCount == 16) ATTND_WGMMA_SS_32("bf16");
    if constexpr (kCount == 32) ATTND_WGMMA_SS_64("bf16");
    if constexpr (kCount == 64) ATTND_WGMMA_SS_128("bf16");
  } else {
    static_assert(std::is_same_v<T, __half>);
    if constexpr (kCount == 16) ATTND_WGMMA_SS_32("f16");
    if constexpr (kCount == 32) ATTND_WGMMA_SS_64("f16");
    if constexpr (kCount == 64) ATTND_WGMMA_SS_128("f16");
  }
}

// D = A B, or D += A B if `add`, with A in registers.
template <typename T, Along kB, int kCount>
__device__ void Multiply(float (&d)[kCount], const uint32_t (&a)[4], uint64_t b, bool add) {
  static_assert(kCount == 16 || kCount == 32 || kCount == 64, "N is 32, 64 or 128");
  if constexpr (std::is_same_v<T, __nv_bfloat16>) {
    if constexpr (kCount == 16) ATTND_WGMMA_RS_32("bf16");
    if constexpr (kCount == 32) ATTND_WGMMA_RS_64("bf16");
    if constexpr (kCount == 64) ATTND_WGMMA_RS_128("bf16");
  } else {
    static_assert(std::is_same_v<T, __half>);
    if constexpr (kCount == 16) ATTND_WGMMA_RS_32("f16");
    if constexpr (kCount == 32) ATTND_WGMMA_RS_64("f16");
    if constexpr (kCount == 64) ATTND_WGMMA_RS_128("f16");
  }
}

#undef ATTND_WGMMA_SS_32
#undef ATTND_WGMMA_RS_32
#undef ATTND_WGMMA_SS_64
#undef ATTND_WGMMA_RS_64
#undef ATTND_WGMMA_SS_128
#undef ATTND_WGMMA_RS_128

}  // namespace attnd::cuda::hopper

#endif  // ATTND_KERNELS_CUDA_HOPPER_WGMMA_CUH_
