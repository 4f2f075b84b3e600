#include "kernels/cores/softmax_kernel.cuh"

namespace attnd::cuda {

template cudaError_t LaunchSoftmax<float>(const SoftmaxArguments&, unsigned, cudaStream_t);
template int SoftmaxSharedMemory<float>(int);

}  // namespace attnd::cuda
