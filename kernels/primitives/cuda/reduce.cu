// Reduce, CumSum, Softmax.
#include "kernels/primitives/cuda/cuda_backend.h"
#include "kernels/primitives/cuda/strided.cuh"

namespace attnd::cuda {
namespace {

constexpr int kRowThreads = 128;

// Sums and maxima of a row by one block. The order of combination depends on the row's length
// alone.
template <typename T>
__device__ T BlockSum(T value, T* shared) {
  shared[threadIdx.x] = value;
  __syncthreads();
  for (int half = kRowThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    __syncthreads();
  }
  const T result = shared[0];
  __syncthreads();
  return result;
}

template <typename T>
__device__ T MaxOf(T a, T b) {
  return a != a ? a : (b > a || b != b ? b : a);  // NaN wins.
}

template <typename T>
__device__ T BlockMax(T value, T* shared) {
  shared[threadIdx.x] = value;
  __syncthreads();
  for (int half = kRowThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half)
      shared[threadIdx.x] = MaxOf(shared[threadIdx.x], shared[threadIdx.x + half]);
    __syncthreads();
  }
  const T result = shared[0];
  __syncthreads();
  return result;
}

// One block for each row of x, which walks `count` elements `stride` bytes apart.
template <typename T>
__global__ void ReduceRows(Walk<2> rows, ReduceOp op, int64_t stride, int64_t count) {
  __shared__ double sums[kRowThreads];
  for (int64_t row = blockIdx.x; row < rows.count; row += gridDim.x) {
    char* at[2];
    rows.At(row, at);
    if (op == ReduceOp::kSum) {
      double sum = 0;
      for (int64_t i = threadIdx.x; i < count; i += kRowThreads)
        sum += *reinterpret_cast<const T*>(at[0] + i * stride);
      sum = BlockSum(sum, sums);
      if (threadIdx.x == 0) *reinterpret_cast<T*>(at[1]) = static_cast<T>(sum);
    } else {
      double most = -INFINITY;
      for (int64_t i = threadIdx.x; i < count; i += kRowThreads) {
        most = MaxOf(most, static_cast<double>(*reinterpret_cast<const T*>(at[0] + i * stride)));
      }
      most = BlockMax(most, sums);
      if (threadIdx.x == 0) *reinterpret_cast<T*>(at[1]) = static_cast<T>(most);
    }
  }
}

template <typename T>
void RunReduce(cudaStream_t stream, const Walk<2>& rows, ReduceOp op, int64_t stride,
               int64_t count) {
  if (rows.count == 0) return;
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(rows.count, 1 << 16));
  // A thread for each row is enough where rows are short.
  if (count > 64) {
    ReduceRows<T><<<blocks, kRowThreads, 0, stream>>>(rows, op, stride, count);
    return;
  }
  ForEach(stream, rows, [op, stride, count] __device__(char*(&at)[2], int64_t) {
    double result = op == ReduceOp::kSum ? 0.0 : -INFINITY;
    for (int64_t i = 0; i < count; ++i) {
      const double value = *reinterpret_cast<const T*>(at[0] + i * stride);
      result = op == ReduceOp::kSum ? result + value : MaxOf(result, value);
    }
    *reinterpret_cast<T*>(at[1]) = static_cast<T>(result);
  });
}

template <typename T>
void RunCumSum(cudaStream_t stream, const Walk<2>& rows, int64_t x_stride, int64_t out_stride,
               int64_t count) {
  ForEach(stream, rows, [x_stride, out_stride, count] __device__(char*(&at)[2], int64_t) {
    double sum = 0;  // Long prefix sums lose digits in float32.
    for (int64_t i = 0; i < count; ++i) {
      sum += *reinterpret_cast<const T*>(at[0] + i * x_stride);
      *reinterpret_cast<T*>(at[1] + i * out_stride) = static_cast<T>(sum);
    }
  });
}

struct SoftmaxRow {
  int64_t count;
  int64_t x_stride, mask_stride, out_stride;
  bool masked, with_lse;
};

// Operands: x, mask, out, lse.
template <typename T>
__global__ void SoftmaxRows(Walk<4> rows, SoftmaxRow row) {
  __shared__ double shared[kRowThreads];
  for (int64_t index = blockIdx.x; index < rows.count; index += gridDim.x) {
    char* at[4];
    rows.At(index, at);
    const auto allowed = [&](int64_t i) {
      return !row.masked || *reinterpret_cast<const bool*>(at[1] + i * row.mask_stride);
    };
    const auto x = [&](int64_t i) {
      return static_cast<double>(*reinterpret_cast<const T*>(at[0] + i * row.x_stride));
    };
    double most = -INFINITY;
    for (int64_t i = threadIdx.x; i < row.count; i += kRowThreads) {
      if (allowed(i)) most = MaxOf(most, x(i));
    }
    most = BlockMax(most, shared);
    const bool empty = most == -INFINITY;  // No weight anywhere, rather than exp(-inf + inf).
    double sum = 0;
    for (int64_t i = threadIdx.x; i < row.count; i += kRowThreads) {
      if (!empty && allowed(i)) sum += exp(x(i) - most);
    }
    sum = BlockSum(sum, shared);
    for (int64_t i = threadIdx.x; i < row.count; i += kRowThreads) {
      *reinterpret_cast<T*>(at[2] + i * row.out_stride) =
          !empty && allowed(i) ? static_cast<T>(exp(x(i) - most) / sum) : T(0);
    }
    if (row.with_lse && threadIdx.x == 0) {
      *reinterpret_cast<T*>(at[3]) = empty ? static_cast<T>(most) : static_cast<T>(most + log(sum));
    }
  }
}

int64_t ByteStride(const Tensor& tensor, int axis) {
  return tensor.stride(axis) * static_cast<int64_t>(SizeOf(tensor.dtype()));
}

}  // namespace

void CudaBackend::Reduce(ReduceOp op, const Tensor& x, int axis, const Tensor& out) {
  if (axis < 0) axis += x.rank();
  const int64_t count = x.dim(axis);
  const Tensor heads = count > 0 ? x.Slice(axis, 0, 1) : out;
  const auto rows = MakeWalk<2>(out.shape(), {&heads, &out});
  const int64_t stride = ByteStride(x, axis);
  if (op == ReduceOp::kAny) {
    ForEach(stream_, rows, [stride, count] __device__(char*(&at)[2], int64_t) {
      bool any = false;
      for (int64_t i = 0; i < count; ++i) any |= *reinterpret_cast<const bool*>(at[0] + i * stride);
      *reinterpret_cast<bool*>(at[1]) = any;
    });
  } else if (out.dtype() == DType::kFloat32) {
    RunReduce<float>(stream_, rows, op, stride, count);
  } else {
    RunReduce<double>(stream_, rows, op, stride, count);
  }
  NoteLaunch("Reduce");
}

void CudaBackend::CumSum(const Tensor& x, int axis, const Tensor& out) {
  if (axis < 0) axis += x.rank();
  const int64_t count = x.dim(axis);
  if (count == 0) return;
  const Tensor x_heads = x.Slice(axis, 0, 1), out_heads = out.Slice(axis, 0, 1);
  const auto rows = MakeWalk<2>(out_heads.shape(), {&x_heads, &out_heads});
  if (out.dtype() == DType::kFloat32) {
    RunCumSum<float>(stream_, rows, ByteStride(x, axis), ByteStride(out, axis), count);
  } else {
    RunCumSum<double>(stream_, rows, ByteStride(x, axis), ByteStride(out, axis), count);
  }
  NoteLaunch("CumSum");
}

void CudaBackend::Softmax(const Tensor& x, const Tensor& mask, const Tensor& out,
                          const Tensor& lse) {
  const int64_t count = out.dim(-1);
  if (count == 0) {
    if (lse.defined()) Fill(-INFINITY, lse);
    return;
  }
  Dims shape = out.shape();
  shape.back() = 1;
  const Tensor x_wide = x.Expand(out.shape());
  const Tensor mask_wide = mask.defined() ? mask.Expand(out.shape()) : out;
  const Tensor x_heads = x_wide.Slice(-1, 0, 1), mask_heads = mask_wide.Slice(-1, 0, 1);
  const Tensor out_heads = out.Slice(-1, 0, 1);
  const auto rows =
      MakeWalk<4>(shape, {&x_heads, &mask_heads, &out_heads, lse.defined() ? &lse : &out_heads});
  if (rows.count == 0) return;
  const SoftmaxRow row = {
      count,          ByteStride(x_wide, -1), ByteStride(mask_wide, -1), ByteStride(out, -1),
      mask.defined(), lse.defined()};
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(rows.count, 1 << 16));
  if (out.dtype() == DType::kFloat32) {
    SoftmaxRows<float><<<blocks, kRowThreads, 0, stream_>>>(rows, row);
  } else {
    SoftmaxRows<double><<<blocks, kRowThreads, 0, stream_>>>(rows, row);
  }
  NoteLaunch("Softmax");
}

}  // namespace attnd::cuda
