#include <cuda_fp16.h>

#include "kernels/cores/softmax_kernel.cuh"

namespace attnd::cuda {

template cudaError_t LaunchSoftmax<__half>(const SoftmaxArguments&, unsigned, cudaStream_t);
template int SoftmaxSharedMemory<__half>(int);

}  // namespace attnd::cuda
