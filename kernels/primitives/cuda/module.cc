// What the shared library of the CUDA backend exports.
#include <cuda_runtime.h>

#include <utility>

#include "kernels/decode/cuda/cuda_step_engine.h"
#include "kernels/primitives/cuda/cuda_backend.h"
#include "kernels/primitives/cuda_module.h"

namespace attnd {

void RegisterAllCudaKernels(Registry& registry);  // Generated from kernels/ops/CMakeLists.txt.

namespace {

int DeviceCount(std::string* why) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess) return count;
  cudaGetLastError();
  if (why != nullptr) *why = cudaGetErrorString(error);
  return 0;
}

absl::StatusOr<std::unique_ptr<Backend>> Create(const CudaOptions& options) {
  absl::StatusOr<std::unique_ptr<cuda::CudaBackend>> backend = cuda::CudaBackend::Create(options);
  if (!backend.ok()) return backend.status();
  return std::unique_ptr<Backend>(*std::move(backend));
}

}  // namespace
}  // namespace attnd

extern "C" const attnd::CudaModule* AttndCudaModule() {
  static const attnd::CudaModule module = {attnd::kCudaModuleVersion, attnd::DeviceCount,
                                           attnd::Create, attnd::RegisterAllCudaKernels,
                                           attnd::decode::CudaStepEngine::Create};
  return &module;
}
