// Elements of a type that is known at run time, as float32: for kernels that are bound by memory or
// that compute in float32 whatever the tensor's type is.
#ifndef ATTND_KERNELS_CUDA_ELEMENTS_CUH_
#define ATTND_KERNELS_CUDA_ELEMENTS_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/core/tensor.h"

namespace attnd::cuda {

// A float32, float16 or bfloat16 array in the device's memory; null if the tensor is undefined.
struct Elements {
  void* data = nullptr;
  DType dtype = DType::kFloat32;

  Elements() = default;
  explicit Elements(const Tensor& tensor)
      : data(tensor.defined() ? tensor.raw() : nullptr), dtype(tensor.dtype()) {}

  __device__ bool defined() const { return data != nullptr; }

  __device__ float Load(int64_t i) const {
    switch (dtype) {
      case DType::kFloat16:
        return __half2float(static_cast<const __half*>(data)[i]);
      case DType::kBFloat16:
        return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]);
      default:
        return static_cast<const float*>(data)[i];
    }
  }

  // Rounds to nearest, ties to even.
  __device__ void Store(int64_t i, float value) const {
    switch (dtype) {
      case DType::kFloat16:
        static_cast<__half*>(data)[i] = __float2half_rn(value);
        break;
      case DType::kBFloat16:
        static_cast<__nv_bfloat16*>(data)[i] = __float2bfloat16_rn(value);
        break;
      default:
        static_cast<float*>(data)[i] = value;
    }
  }
};

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CUDA_ELEMENTS_CUH_
