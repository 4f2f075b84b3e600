// The running maximum and sum of a softmax whose scores come tile by tile (Milakov and Gimelshein,
// "Online normalizer calculation for softmax", 2018), for the two rows that a lane shares with
// three others in an accumulator fragment. Scores are in units of ln 2: powers of two are what the
// hardware computes.
#ifndef ATTND_KERNELS_CUDA_ONLINE_SOFTMAX_CUH_
#define ATTND_KERNELS_CUDA_ONLINE_SOFTMAX_CUH_

#include <cuda_runtime.h>

namespace attnd::cuda {

inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;

class OnlineSoftmax {
 public:
  // Turns scores (-inf: not allowed) into exp2(score - maximum so far). Everything that was summed
  // with earlier weights is to be multiplied by rescale[0] (upper row) or rescale[1] (lower row).
  template <int kBlocks>
  __device__ void Add(float (&score)[kBlocks][4], float (&rescale)[2]) {
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      float top = maximum_[row];
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        top = fmaxf(top, fmaxf(score[block][2 * row], score[block][2 * row + 1]));
      }
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
      // A row that has seen nothing keeps weights of zero instead of exp(-inf + inf).
      const float base = top == -INFINITY ? 0.0f : top;
      rescale[row] = exp2f(maximum_[row] - base);
      maximum_[row] = top;
      float sum = 0;
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
        for (int i = 2 * row; i < 2 * row + 2; ++i) {
          score[block][i] = exp2f(score[block][i] - base);
          sum += score[block][i];
        }
      }
      sum_[row] = sum_[row] * rescale[row] + sum;
    }
  }

  // Ends the summation. `sink` is one more score, without a value (-inf: none). Returns what the
  // weighted sum of values is to be multiplied by; 0 for a row without any key, whatever the sink
  // is.
  __device__ float Finish(int row, float sink, float* lse) {
    float sum = sum_[row];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const float top = fmaxf(maximum_[row], sink);
    const float base = top == -INFINITY ? 0.0f : top;
    const float rescale = exp2f(maximum_[row] - base);
    sum = sum * rescale + exp2f(sink - base);
    *lse = (base + log2f(sum)) * kLn2;
    return sum == 0.0f || maximum_[row] == -INFINITY ? 0.0f : rescale / sum;
  }

 private:
  float maximum_[2] = {-INFINITY, -INFINITY};
  float sum_[2] = {0, 0};  // This lane's share.
};

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CUDA_ONLINE_SOFTMAX_CUH_
