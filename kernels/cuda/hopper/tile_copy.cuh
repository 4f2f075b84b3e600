// Copies of tiles between global and shared memory by the copy engine (PTX ISA,
// "cp.async.bulk.tensor"); tensor_map.h describes the tensors.
#ifndef ATTND_KERNELS_CUDA_HOPPER_TILE_COPY_CUH_
#define ATTND_KERNELS_CUDA_HOPPER_TILE_COPY_CUH_

#include "kernels/cuda/hopper/mbarrier.cuh"
#include "kernels/cuda/hopper/tensor_map.h"

namespace attnd::cuda::hopper {

// A tile's place in its tensor: its first channel, its head, its first token and its row.
struct TilePlace {
  int channel, head, token, row;
};

// By one thread. `tile` is aligned to 1024 bytes; completion is counted on `barrier`.
__device__ inline void LoadTile(const CUtensorMap& map, TilePlace place, void* tile,
                                Barrier& barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(SharedAddress(tile)),
      "l"(&map), "r"(barrier.address()), "r"(place.channel), "r"(place.head), "r"(place.token),
      "r"(place.row)
      : "memory");
}

// By one thread, after the tile's writers have passed FenceTiles and a barrier with it.
__device__ inline void StoreTile(const CUtensorMap& map, TilePlace place, const void* tile) {
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(
          &map),
      "r"(SharedAddress(tile)), "r"(place.channel), "r"(place.head), "r"(place.token),
      "r"(place.row)
      : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Until this thread's stores have read their tiles, which may then be written again.
__device__ inline void WaitForStoreReads() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

// Until this thread's stores are done.
__device__ inline void WaitForStores() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// Orders the thread's ordinary writes to shared memory before what the copy engine and the tensor
// cores do with it after the next barrier.
__device__ inline void FenceTiles() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

}  // namespace attnd::cuda::hopper

#endif  // ATTND_KERNELS_CUDA_HOPPER_TILE_COPY_CUH_
