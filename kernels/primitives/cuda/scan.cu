// LinearScan, LogSumExpScan: a thread for each channel walks the middle axis; neighbours read
// neighbouring channels.
#include "kernels/primitives/cuda/cuda_backend.h"
#include "kernels/primitives/cuda/strided.cuh"

namespace attnd::cuda {
namespace {

int64_t MiddleStride(const Tensor& tensor) {
  return tensor.stride(1) * static_cast<int64_t>(SizeOf(tensor.dtype()));
}

// ln(e^a + e^b): -inf is the ln of nothing.
template <typename T>
__device__ T LogAddExp(T a, T b) {
  if (a != a || b != b) return a + b;
  const T most = a > b ? a : b;
  if (isinf(most)) return most;
  return most + log1p(exp((a > b ? b : a) - most));
}

struct ScanRow {
  int64_t length;
  int64_t factor_stride, x_stride, out_stride;
  bool has_initial;
};

// Operands: factor, x, initial, out; their first elements.
template <typename T>
void RunLinear(cudaStream_t stream, const Walk<4>& heads, ScanRow row) {
  ForEach(stream, heads, [row] __device__(char*(&at)[4], int64_t) {
    T value = row.has_initial ? *reinterpret_cast<const T*>(at[2]) : T(0);
    for (int64_t t = 0; t < row.length; ++t) {
      value = *reinterpret_cast<const T*>(at[0] + t * row.factor_stride) * value +
              *reinterpret_cast<const T*>(at[1] + t * row.x_stride);
      *reinterpret_cast<T*>(at[3] + t * row.out_stride) = value;
    }
  });
}

template <typename T>
void RunLogSumExp(cudaStream_t stream, const Walk<4>& heads, ScanRow row) {
  ForEach(stream, heads, [row] __device__(char*(&at)[4], int64_t) {
    T value = row.has_initial ? *reinterpret_cast<const T*>(at[2]) : -static_cast<T>(INFINITY);
    for (int64_t t = 0; t < row.length; ++t) {
      value = LogAddExp(value, *reinterpret_cast<const T*>(at[1] + t * row.x_stride));
      *reinterpret_cast<T*>(at[3] + t * row.out_stride) = value;
    }
  });
}

// The first elements along the middle axis, and how far apart the others are.
Walk<4> HeadsOf(const Tensor& factor, const Tensor& x, const Tensor& initial, const Tensor& out,
                ScanRow& row) {
  const Tensor a = factor.Expand(out.shape()), u = x.Expand(out.shape());
  row = {out.dim(1), MiddleStride(a), MiddleStride(u), MiddleStride(out), initial.defined()};
  const Tensor a0 = a.Slice(1, 0, 1), u0 = u.Slice(1, 0, 1), out0 = out.Slice(1, 0, 1);
  const Tensor initial0 = initial.defined() ? initial.Unsqueeze(1) : out0;
  return MakeWalk<4>(out0.shape(), {&a0, &u0, &initial0, &out0});
}

}  // namespace

void CudaBackend::LinearScan(const Tensor& factor, const Tensor& x, const Tensor& initial,
                             const Tensor& out) {
  if (out.num_elements() == 0) return;
  ScanRow row;
  const Walk<4> heads = HeadsOf(factor, x, initial, out, row);
  if (out.dtype() == DType::kFloat32) {
    RunLinear<float>(stream_, heads, row);
  } else {
    RunLinear<double>(stream_, heads, row);
  }
  NoteLaunch("LinearScan");
}

void CudaBackend::LogSumExpScan(const Tensor& x, const Tensor& initial, const Tensor& out) {
  if (out.num_elements() == 0) return;
  ScanRow row;
  const Walk<4> heads = HeadsOf(x, x, initial, out, row);
  if (out.dtype() == DType::kFloat32) {
    RunLogSumExp<float>(stream_, heads, row);
  } else {
    RunLogSumExp<double>(stream_, heads, row);
  }
  NoteLaunch("LogSumExpScan");
}

}  // namespace attnd::cuda
