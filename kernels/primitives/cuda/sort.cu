// SortDescending: an entry's place is the number of entries that come before it. Quadratic in the
// row, which is short where choices are made (regions, blocks, tokens of an image).
#include "kernels/primitives/cuda/cuda_backend.h"
#include "kernels/primitives/cuda/strided.cuh"

namespace attnd::cuda {
namespace {

template <typename T>
__device__ T KeyOf(const char* at) {
  const T value = *reinterpret_cast<const T*>(at);
  return value != value ? -static_cast<T>(INFINITY) : value;
}

// Operands over out's shape: the first entry of x's row, the first of out's row.
template <typename T>
void RunSort(cudaStream_t stream, const Walk<2>& entries, int64_t x_stride, int64_t out_stride,
             int64_t n) {
  ForEach(stream, entries, [x_stride, out_stride, n] __device__(char*(&at)[2], int64_t index) {
    const int64_t i = index % n;
    const T key = KeyOf<T>(at[0] + i * x_stride);
    int64_t place = 0;
    for (int64_t j = 0; j < n; ++j) {
      const T other = KeyOf<T>(at[0] + j * x_stride);
      place += other > key || (other == key && j < i) ? 1 : 0;
    }
    *reinterpret_cast<int64_t*>(at[1] + place * out_stride) = i;
  });
}

}  // namespace

void CudaBackend::SortDescending(const Tensor& x, const Tensor& out) {
  const int64_t n = out.dim(-1);
  if (out.num_elements() == 0) return;
  const Tensor x_rows = x.Slice(-1, 0, 1).Expand(out.shape());
  const Tensor out_rows = out.Slice(-1, 0, 1).Expand(out.shape());
  const auto entries = MakeWalk<2>(out.shape(), {&x_rows, &out_rows});
  const int64_t x_stride = x.stride(-1) * static_cast<int64_t>(SizeOf(x.dtype()));
  const int64_t out_stride = out.stride(-1) * static_cast<int64_t>(sizeof(int64_t));
  if (x.dtype() == DType::kFloat32) {
    RunSort<float>(stream_, entries, x_stride, out_stride, n);
  } else {
    RunSort<double>(stream_, entries, x_stride, out_stride, n);
  }
  NoteLaunch("SortDescending");
}

}  // namespace attnd::cuda
