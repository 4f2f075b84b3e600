// Barriers in shared memory that count arrivals and bytes of asynchronous copies (PTX ISA,
// "mbarrier"), and the position in a ring of stages that they guard.
#ifndef ATTND_KERNELS_CUDA_HOPPER_MBARRIER_CUH_
#define ATTND_KERNELS_CUDA_HOPPER_MBARRIER_CUH_

#include <cstdint>

namespace attnd::cuda::hopper {

// The address of shared memory as the instructions of this layer take it.
__device__ inline uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// A phase ends when `arrivals` threads have arrived and all announced bytes have landed; the next
// begins at once. Eight bytes of shared memory.
class Barrier {
 public:
  // By one thread; all others see it after PublishBarriers and a block-wide barrier.
  __device__ void Initialise(uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address()), "r"(arrivals)
                 : "memory");
  }

  // Releases what the thread has written.
  __device__ void Arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address()) : "memory");
  }

  // Arrives and announces `bytes` of copies that complete on this barrier.
  __device__ void ArriveExpecting(uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address()),
                 "r"(bytes)
                 : "memory");
  }

  // Until the phase of that parity has ended. Acquires what arrivals released and copies wrote.
  __device__ void Wait(uint32_t parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "WAIT:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@done bra DONE;\n"
        "bra WAIT;\n"
        "DONE:\n"
        "}\n" ::"r"(address()),
        "r"(parity)
        : "memory");
  }

  // Whether the phase of that parity has ended; acquires like Wait if so.
  __device__ bool HasEnded(uint32_t parity) {
    uint32_t ended;
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n"
        "selp.u32 %0, 1, 0, done;\n"
        "}\n"
        : "=r"(ended)
        : "r"(address()), "r"(parity)
        : "memory");
    return ended != 0;
  }

  __device__ uint32_t address() const { return SharedAddress(&word_); }

 private:
  uint64_t word_;
};

// Makes initialised barriers visible to the copy engine; by the thread that initialised them.
__device__ inline void PublishBarriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Where a producer or a consumer stands in a ring of kStages buffers. A consumer waits for a full
// buffer with phase(), a producer for an empty one with phase() ^ 1: the first round passes.
template <int kStages>
class RingPosition {
 public:
  __device__ int stage() const { return stage_; }
  __device__ uint32_t phase() const { return phase_; }
  __device__ void Advance() {
    if (++stage_ == kStages) {
      stage_ = 0;
      phase_ ^= 1;
    }
  }

 private:
  int stage_ = 0;
  uint32_t phase_ = 0;
};

}  // namespace attnd::cuda::hopper

#endif  // ATTND_KERNELS_CUDA_HOPPER_MBARRIER_CUH_
