// Copy, Fill, Iota, Unary, Binary, Where, Gather.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdlib>
#include <iostream>

#include "kernels/primitives/cuda/cuda_backend.h"
#include "kernels/primitives/cuda/strided.cuh"

namespace attnd::cuda {
namespace {

[[noreturn]] void Bug(const char* primitive, const Tensor& tensor) {
  std::cerr << "attnd: bug: " << primitive << " cannot take " << tensor.DebugString() << std::endl;
  std::abort();
}

__device__ double LoadAny(const char* at, DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return *reinterpret_cast<const bool*>(at);
    case DType::kInt32:
      return *reinterpret_cast<const int32_t*>(at);
    case DType::kInt64:
      return static_cast<double>(*reinterpret_cast<const int64_t*>(at));
    case DType::kFloat16:
      return __half2float(*reinterpret_cast<const __half*>(at));
    case DType::kBFloat16:
      return __bfloat162float(*reinterpret_cast<const __nv_bfloat16*>(at));
    case DType::kFloat32:
      return *reinterpret_cast<const float*>(at);
    case DType::kFloat64:
      return *reinterpret_cast<const double*>(at);
  }
  return 0;
}

__device__ void StoreAny(char* at, DType dtype, double value) {
  switch (dtype) {
    case DType::kBool:
      *reinterpret_cast<bool*>(at) = value != 0;
      break;
    case DType::kInt32:
      *reinterpret_cast<int32_t*>(at) = static_cast<int32_t>(value);
      break;
    case DType::kInt64:
      *reinterpret_cast<int64_t*>(at) = static_cast<int64_t>(value);
      break;
    case DType::kFloat16:
      *reinterpret_cast<__half*>(at) = __float2half_rn(static_cast<float>(value));
      break;
    case DType::kBFloat16:
      *reinterpret_cast<__nv_bfloat16*>(at) = __float2bfloat16_rn(static_cast<float>(value));
      break;
    case DType::kFloat32:
      *reinterpret_cast<float*>(at) = static_cast<float>(value);
      break;
    case DType::kFloat64:
      *reinterpret_cast<double*>(at) = value;
      break;
  }
}

// Moves `size` bytes, a power of two, as they are: every type's bits survive, NaN payloads and
// large integers too.
__device__ void Move(char* to, const char* from, int size) {
  switch (size) {
    case 1:
      *to = *from;
      break;
    case 2:
      *reinterpret_cast<uint16_t*>(to) = *reinterpret_cast<const uint16_t*>(from);
      break;
    case 4:
      *reinterpret_cast<uint32_t*>(to) = *reinterpret_cast<const uint32_t*>(from);
      break;
    default:
      *reinterpret_cast<uint64_t*>(to) = *reinterpret_cast<const uint64_t*>(from);
  }
}

template <typename T>
__device__ T Sigmoid(T x) {
  const T e = exp(-fabs(x));  // Never overflows.
  return (x >= T(0) ? T(1) : e) / (T(1) + e);
}

template <typename T>
__device__ T Evaluate(UnaryOp op, T x) {
  switch (op) {
    case UnaryOp::kNeg:
      return -x;
    case UnaryOp::kAbs:
      return fabs(x);
    case UnaryOp::kExp:
      return exp(x);
    case UnaryOp::kLog:
      return log(x);
    case UnaryOp::kLog1p:
      return log1p(x);
    case UnaryOp::kSqrt:
      return sqrt(x);
    case UnaryOp::kReciprocal:
      return T(1) / x;
    case UnaryOp::kSquare:
      return x * x;
    case UnaryOp::kSin:
      return sin(x);
    case UnaryOp::kCos:
      return cos(x);
    case UnaryOp::kTanh:
      return tanh(x);
    case UnaryOp::kSigmoid:
      return x != x ? x : Sigmoid(x);
    case UnaryOp::kSoftplus:
      return x != x ? x : (x > T(0) ? x : T(0)) + log1p(exp(-fabs(x)));
    case UnaryOp::kSilu:
      return x * Sigmoid(x);
    case UnaryOp::kElu1:
      return x > T(0) ? x + T(1) : exp(x);
    case UnaryOp::kRelu:
      return x < T(0) ? T(0) : x;
    case UnaryOp::kFloor:
      return floor(x);
    case UnaryOp::kErf:
      return erf(x);
    case UnaryOp::kGelu:
      return x < T(-40) ? T(0) : x * erfc(-x * T(M_SQRT1_2)) / T(2);
    case UnaryOp::kNot:
      break;
  }
  return x;
}

template <typename T>
__device__ T Arithmetic(BinaryOp op, T a, T b) {
  switch (op) {
    case BinaryOp::kAdd:
      return a + b;
    case BinaryOp::kSub:
      return a - b;
    case BinaryOp::kMul:
      return a * b;
    case BinaryOp::kDiv:
      if constexpr (std::is_integral_v<T>)
        return b == 0 ? T(0) : a / b;
      else
        return a / b;
    case BinaryOp::kMax:
      return a > b || a != a ? a : b;
    case BinaryOp::kMin:
      return a < b || a != a ? a : b;
    case BinaryOp::kPow:
      return static_cast<T>(pow(static_cast<double>(a), static_cast<double>(b)));
    case BinaryOp::kMod:
      if constexpr (std::is_integral_v<T>)
        return b == 0 ? T(0) : ((a % b) + b) % b;
      else
        return a - b * floor(a / b);
    default:
      return a;
  }
}

template <typename T>
__device__ bool Compare(BinaryOp op, T a, T b) {
  switch (op) {
    case BinaryOp::kLess:
      return a < b;
    case BinaryOp::kLessEqual:
      return a <= b;
    case BinaryOp::kEqual:
      return a == b;
    case BinaryOp::kAnd:
      return a && b;
    default:
      return a || b;
  }
}

template <typename T>
void RunBinary(cudaStream_t stream, BinaryOp op, const Tensor& a, const Tensor& b,
               const Tensor& out) {
  const auto walk = MakeWalk<3>(out.shape(), {&a, &b, &out});
  if (op >= BinaryOp::kLess) {
    ForEach(stream, walk, [op] __device__(char*(&at)[3], int64_t) {
      *reinterpret_cast<bool*>(at[2]) =
          Compare(op, *reinterpret_cast<const T*>(at[0]), *reinterpret_cast<const T*>(at[1]));
    });
  } else {
    ForEach(stream, walk, [op] __device__(char*(&at)[3], int64_t) {
      *reinterpret_cast<T*>(at[2]) =
          Arithmetic(op, *reinterpret_cast<const T*>(at[0]), *reinterpret_cast<const T*>(at[1]));
    });
  }
}

template <typename T>
void RunUnary(cudaStream_t stream, UnaryOp op, const Tensor& x, const Tensor& out) {
  ForEach(stream, MakeWalk<2>(out.shape(), {&x, &out}), [op] __device__(char*(&at)[2], int64_t) {
    *reinterpret_cast<T*>(at[1]) = Evaluate(op, *reinterpret_cast<const T*>(at[0]));
  });
}

}  // namespace

void CudaBackend::Copy(const Tensor& x, const Tensor& out) {
  const auto walk = MakeWalk<2>(out.shape(), {&x, &out});
  const DType from = x.dtype(), to = out.dtype();
  if (from == to) {
    const int size = static_cast<int>(SizeOf(from));
    ForEach(stream_, walk, [size] __device__(char*(&at)[2], int64_t) { Move(at[1], at[0], size); });
  } else {
    ForEach(stream_, walk, [from, to] __device__(char*(&at)[2], int64_t) {
      StoreAny(at[1], to, LoadAny(at[0], from));
    });
  }
  NoteLaunch("Copy");
}

void CudaBackend::Fill(double value, const Tensor& out) {
  const DType to = out.dtype();
  ForEach(stream_, MakeWalk<1>(out.shape(), {&out}),
          [to, value] __device__(char*(&at)[1], int64_t) { StoreAny(at[0], to, value); });
  NoteLaunch("Fill");
}

void CudaBackend::Iota(double start, double step, const Tensor& out) {
  const DType to = out.dtype();
  ForEach(stream_, MakeWalk<1>(out.shape(), {&out}),
          [to, start, step] __device__(char*(&at)[1], int64_t i) {
            StoreAny(at[0], to, start + static_cast<double>(i) * step);
          });
  NoteLaunch("Iota");
}

void CudaBackend::Unary(UnaryOp op, const Tensor& x, const Tensor& out) {
  if (x.dtype() != out.dtype()) Bug("Unary", x);
  if (op == UnaryOp::kNot) {
    ForEach(stream_, MakeWalk<2>(out.shape(), {&x, &out}), [] __device__(char*(&at)[2], int64_t) {
      *reinterpret_cast<bool*>(at[1]) = !*reinterpret_cast<const bool*>(at[0]);
    });
  } else if (out.dtype() == DType::kFloat32) {
    RunUnary<float>(stream_, op, x, out);
  } else if (out.dtype() == DType::kFloat64) {
    RunUnary<double>(stream_, op, x, out);
  } else {
    Bug("Unary", out);
  }
  NoteLaunch("Unary");
}

void CudaBackend::Binary(BinaryOp op, const Tensor& a, const Tensor& b, const Tensor& out) {
  if (a.dtype() != b.dtype()) Bug("Binary", b);
  switch (a.dtype()) {
    case DType::kFloat32:
      RunBinary<float>(stream_, op, a, b, out);
      break;
    case DType::kFloat64:
      RunBinary<double>(stream_, op, a, b, out);
      break;
    case DType::kInt64:
      RunBinary<int64_t>(stream_, op, a, b, out);
      break;
    case DType::kBool:
      RunBinary<bool>(stream_, op, a, b, out);
      break;
    default:
      Bug("Binary", a);
  }
  NoteLaunch("Binary");
}

void CudaBackend::Where(const Tensor& condition, const Tensor& a, const Tensor& b,
                        const Tensor& out) {
  const int size = static_cast<int>(SizeOf(out.dtype()));
  ForEach(stream_, MakeWalk<4>(out.shape(), {&condition, &a, &b, &out}),
          [size] __device__(char*(&at)[4], int64_t) {
            Move(at[3], *reinterpret_cast<const bool*>(at[0]) ? at[1] : at[2], size);
          });
  NoteLaunch("Where");
}

void CudaBackend::Gather(const Tensor& x, const Tensor& index, int axis, const Tensor& out) {
  if (index.dtype() != DType::kInt64 || index.rank() != 1) Bug("Gather", index);
  // The index as an operand that varies along `axis` only.
  Tensor along = index;
  for (int i = 0; i < axis; ++i) along = along.Unsqueeze(0);
  while (along.rank() < out.rank()) along = along.Unsqueeze(-1);
  const int size = static_cast<int>(SizeOf(out.dtype()));
  const int64_t step = x.stride(axis) * size;
  if (x.dim(axis) == 0) return;
  const Tensor heads = x.Slice(axis, 0, 1);
  ForEach(stream_, MakeWalk<3>(out.shape(), {&along, &heads, &out}),
          [size, step] __device__(char*(&at)[3], int64_t) {
            Move(at[2], at[1] + *reinterpret_cast<const int64_t*>(at[0]) * step, size);
          });
  NoteLaunch("Gather");
}

}  // namespace attnd::cuda
