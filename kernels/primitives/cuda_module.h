// Loading of the CUDA backend, a shared library that is opened only where a driver is there.
#ifndef ATTND_KERNELS_PRIMITIVES_CUDA_MODULE_H_
#define ATTND_KERNELS_PRIMITIVES_CUDA_MODULE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/core/registry.h"
#include "kernels/primitives/primitives.h"

namespace attnd {

namespace decode {
class StepEngine;
struct StepProgram;
}  // namespace decode

struct CudaOptions {
  int ordinal = 0;
  int64_t memory_limit_bytes = 0;  // 0: what the device has.
};

// Number of usable devices; 0 (with the reason in `why`) if the library, the driver or a device is
// missing.
int CudaDeviceCount(std::string* why);

// Opens libattnd_cuda.so (beside the program, in ../lib, or on the loader's path), creates a
// backend for a device and adds the CUDA kernels to the registry (once). UNAVAILABLE with the
// reason if it cannot.
absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(const CudaOptions& options,
                                                           Registry& registry);

// What libattnd_cuda.so exports, as `extern "C" const attnd::CudaModule* AttndCudaModule()`.
struct CudaModule {
  int version;  // kCudaModuleVersion of the build.
  int (*device_count)(std::string* why);
  absl::StatusOr<std::unique_ptr<Backend>> (*create)(const CudaOptions& options);
  void (*register_kernels)(Registry& registry);
  // kernels/decode/step_engine.h
  absl::StatusOr<std::unique_ptr<decode::StepEngine>> (*create_step_engine)(
      Backend& backend, const decode::StepProgram& program);
};
inline constexpr int kCudaModuleVersion = 3;

// Null (with the reason in `why`) if the library is missing.
const CudaModule* LoadCudaModule(std::string* why);

}  // namespace attnd

#endif  // ATTND_KERNELS_PRIMITIVES_CUDA_MODULE_H_
