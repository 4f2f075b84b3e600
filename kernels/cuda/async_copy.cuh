// Rows of global memory into a tile of shared memory, behind the thread's back.
#ifndef ATTND_KERNELS_CUDA_ASYNC_COPY_CUH_
#define ATTND_KERNELS_CUDA_ASYNC_COPY_CUH_

#include <cstdint>
#include <cstring>

namespace attnd::cuda {

// 16 bytes, or 16 zero bytes where not `valid`. Both addresses are multiples of 16.
__device__ inline void CopyAsync16(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global), "r"(valid ? 16 : 0)
               : "memory");
}

// Returns when every copy that this thread queued has arrived; other threads' need a barrier too.
__device__ inline void WaitForCopies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Queues tile[r, c] = source[r * row_stride + c] for r < rows and c < columns, and zeros elsewhere
// in kRows x padded_columns (a multiple of 16, at most kWidth). `aligned`: every row of source
// starts at a multiple of 16 bytes and holds a multiple of 16 bytes; otherwise elements are copied
// one by one, at once.
template <int kRows, int kWidth, int kThreads, typename T>
__device__ void LoadTile(T* tile, int tile_stride, const T* source, int row_stride, int rows,
                         int columns, int padded_columns, bool aligned) {
  if (aligned) {
    constexpr int kVector = 16 / sizeof(T);
    constexpr int kVectors = kWidth / kVector;
#pragma unroll 1  // Unrolled, its addresses would be kept in registers that the caller needs.
    for (int i = threadIdx.x; i < kRows * kVectors; i += kThreads) {
      const int row = i / kVectors;
      const int column = i % kVectors * kVector;
      if (column >= padded_columns) continue;
      const bool valid = row < rows && column < columns;
      CopyAsync16(tile + row * tile_stride + column,
                  valid ? source + row * row_stride + column : source, valid);
    }
    return;
  }
#pragma unroll 1
  for (int i = threadIdx.x; i < kRows * kWidth; i += kThreads) {
    const int row = i / kWidth;
    const int column = i % kWidth;
    if (column >= padded_columns) continue;
    T value;
    if (row < rows && column < columns) {
      value = source[row * row_stride + column];
    } else {
      memset(&value, 0, sizeof value);
    }
    tile[row * tile_stride + column] = value;
  }
}

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CUDA_ASYNC_COPY_CUH_
