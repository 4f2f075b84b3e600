#include <cuda_bf16.h>

#include "kernels/cores/softmax_kernel.cuh"

namespace attnd::cuda {

template cudaError_t LaunchSoftmax<__nv_bfloat16>(const SoftmaxArguments&, unsigned, cudaStream_t);
template int SoftmaxSharedMemory<__nv_bfloat16>(int);

}  // namespace attnd::cuda
