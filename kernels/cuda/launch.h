// What every launch of a kernel needs from the host.
#ifndef ATTND_KERNELS_CUDA_LAUNCH_H_
#define ATTND_KERNELS_CUDA_LAUNCH_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "kernels/primitives/cuda/cuda_backend.h"

namespace attnd::cuda {

template <typename T>
constexpr T CeilDiv(T a, T b) {
  return (a + b - 1) / b;
}

// `backend` is the CUDA backend: kernels of this library run on no other.
inline cudaStream_t StreamOf(Backend& backend) {
  return static_cast<CudaBackend&>(backend).stream();
}

// A number of blocks; RESOURCE_EXHAUSTED beyond what one launch takes.
inline absl::StatusOr<unsigned> GridSize(int64_t blocks) {
  if (blocks <= std::numeric_limits<int32_t>::max()) return static_cast<unsigned>(blocks);
  return absl::ResourceExhaustedError(
      absl::StrCat("given ", blocks, " thread blocks, expected at most 2147483647"));
}

// After a launch: INTERNAL with the kernel's name and the reason.
inline absl::Status LaunchStatus(absl::string_view kernel, cudaError_t error = cudaGetLastError()) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(kernel, ": ", cudaGetErrorString(error)));
}

// A copy of host entries in the backend's memory. T holds nothing but elements of type `dtype`.
template <typename T>
absl::StatusOr<Tensor> UploadTable(Backend& backend, DType dtype, absl::Span<const T> entries) {
  const auto count = static_cast<int64_t>(entries.size() * sizeof(T) / SizeOf(dtype));
  absl::StatusOr<Tensor> table = backend.Allocate(dtype, {count});
  if (!table.ok()) return table;
  const Tensor host(const_cast<T*>(entries.data()), dtype, {count});
  if (absl::Status status = backend.Upload(host, *table); !status.ok()) return status;
  return table;
}

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CUDA_LAUNCH_H_
