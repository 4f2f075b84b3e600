#include "kernels/cores/recurrent_sm90_launch.cuh"

namespace attnd::cuda {

cudaError_t LaunchSm90Float16(cudaStream_t stream, const Sm90Maps& maps, const Sm90Params& p) {
  return LaunchSm90<__half>(stream, maps, p);
}

}  // namespace attnd::cuda
