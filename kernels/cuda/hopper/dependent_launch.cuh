// Kernels that start while the one before them still runs (programmatic dependent launch).
#ifndef ATTND_KERNELS_CUDA_HOPPER_DEPENDENT_LAUNCH_CUH_
#define ATTND_KERNELS_CUDA_HOPPER_DEPENDENT_LAUNCH_CUH_

#include <cuda_runtime.h>

namespace attnd::cuda::hopper {

// Until the kernel before has ended and its writes are visible. Nothing that it, or any kernel
// before it, writes may be read earlier, and nothing that they read may be written.
__device__ inline void AwaitPreviousKernel() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// Lets the next kernel's blocks start where there is room.
__device__ inline void AllowNextKernel() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// Launches `kernel`; `early`: it may start before its predecessor ends, and calls
// AwaitPreviousKernel.
template <typename... Parameters, typename... Arguments>
cudaError_t Launch(void (*kernel)(Parameters...), dim3 grid, int threads, int shared_memory,
                   cudaStream_t stream, bool early, const Arguments&... arguments) {
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_memory);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_memory);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = early ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace attnd::cuda::hopper

#endif  // ATTND_KERNELS_CUDA_HOPPER_DEPENDENT_LAUNCH_CUH_
