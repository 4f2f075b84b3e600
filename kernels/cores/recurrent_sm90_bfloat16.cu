#include "kernels/cores/recurrent_sm90_launch.cuh"

namespace attnd::cuda {

cudaError_t LaunchSm90Bfloat16(cudaStream_t stream, const Sm90Maps& maps, const Sm90Params& p) {
  return LaunchSm90<__nv_bfloat16>(stream, maps, p);
}

}  // namespace attnd::cuda
