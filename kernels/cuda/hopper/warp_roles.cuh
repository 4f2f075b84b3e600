// What warps of different roles in one block need: barriers among some of them, and registers
// handed from those that need few to those that need many.
#ifndef ATTND_KERNELS_CUDA_HOPPER_WARP_ROLES_CUH_
#define ATTND_KERNELS_CUDA_HOPPER_WARP_ROLES_CUH_

namespace attnd::cuda::hopper {

inline constexpr int kWarpgroup = 128;

// Until kThreads threads have come to the barrier of that number (1 to 15; 0 is __syncthreads).
template <int kThreads>
__device__ void SyncThreads(int barrier) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(kThreads) : "memory");
}

// By every warp of a warpgroup; needs __launch_bounds__(threads, 1). A multiple of 8.
template <int kRegisters>
__device__ void GiveUpRegisters() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ void TakeRegisters() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace attnd::cuda::hopper

#endif  // ATTND_KERNELS_CUDA_HOPPER_WARP_ROLES_CUH_
