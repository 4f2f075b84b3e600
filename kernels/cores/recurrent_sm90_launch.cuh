// Launches of the Hopper kernels of the linear recurrence for one type; each type is a file of its
// own, so that they compile at the same time.
#ifndef ATTND_KERNELS_CORES_RECURRENT_SM90_LAUNCH_CUH_
#define ATTND_KERNELS_CORES_RECURRENT_SM90_LAUNCH_CUH_

#include "kernels/cores/recurrent_sm90_sums.cuh"
#include "kernels/cores/recurrent_sm90_walk.cuh"

namespace attnd::cuda {

template <typename T, int K, int kSlice, bool kDecay>
cudaError_t LaunchSm90Sizes(cudaStream_t stream, const Sm90Maps& maps, const Sm90Params& p) {
  constexpr int kThreads = hopper::kWarpgroup * (1 + kSlice / 64);
  const int columns = p.heads * (p.V / kSlice);
  const auto grid = [columns](int n) { return dim3(static_cast<unsigned>(n * columns)); };
  const bool split = p.chain_count > 0;
  if (split) {
    cudaError_t error =
        hopper::Launch(SumUnits<T, K, kSlice, kDecay>, grid(p.summed_count), kThreads,
                       static_cast<int>(sizeof(SumsMemory<K, kSlice>)), stream, false, maps, p);
    if (error != cudaSuccess) return error;
    if (p.chains_apart) {
      constexpr int kChainThreads = 256;
      error = hopper::Launch(ChainUnits<K, kSlice>,
                             grid(p.chain_count * (K * kSlice / 4 / kChainThreads)), kChainThreads,
                             0, stream, true, p);
      if (error != cudaSuccess) return error;
    }
  }
  return hopper::Launch(WalkSpans<T, K, kSlice, kDecay>, grid(p.span_count), kThreads,
                        static_cast<int>(sizeof(WalkMemory<K, kSlice>)), stream, split, maps, p);
}

template <typename T, int K, int kSlice>
cudaError_t LaunchSm90Decay(cudaStream_t stream, const Sm90Maps& maps, const Sm90Params& p) {
  return p.g != nullptr ? LaunchSm90Sizes<T, K, kSlice, true>(stream, maps, p)
                        : LaunchSm90Sizes<T, K, kSlice, false>(stream, maps, p);
}

template <typename T>
cudaError_t LaunchSm90(cudaStream_t stream, const Sm90Maps& maps, const Sm90Params& p) {
  if (p.K == 64 && p.slice == 64) return LaunchSm90Decay<T, 64, 64>(stream, maps, p);
  if (p.K == 64 && p.slice == 128) return LaunchSm90Decay<T, 64, 128>(stream, maps, p);
  if (p.K == 128 && p.slice == 64) return LaunchSm90Decay<T, 128, 64>(stream, maps, p);
  if (p.K == 128 && p.slice == 128) return LaunchSm90Decay<T, 128, 128>(stream, maps, p);
  return cudaErrorInvalidValue;
}

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CORES_RECURRENT_SM90_LAUNCH_CUH_
