// What the kernel of the softmax core is launched with.
#ifndef ATTND_KERNELS_CORES_SOFTMAX_LAUNCH_H_
#define ATTND_KERNELS_CORES_SOFTMAX_LAUNCH_H_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/cores/softmax_cuda.h"

namespace attnd::cuda {

// Queries that one thread block computes.
inline constexpr int kSoftmaxQueries = 64;

// Where the tokens of a sequence begin in q and in k, counted over all rows of the batch.
struct SoftmaxSequence {
  int64_t first_query;
  int64_t first_key;
  int64_t queries;
  int64_t keys;
  int64_t batch_row;
};

struct SoftmaxArguments {
  const void* q;
  const void* k;
  const void* v;
  void* o;
  float* lse;          // Null: not wanted.
  const float* sinks;  // Null: none.
  const SoftmaxSequence* sequences;
  int query_tiles;  // Of the longest sequence.
  int heads;
  int key_heads;
  int value_heads;
  int key_size;
  int value_size;
  // A score in units of ln 2 is q.k * score_scale, or tanh(q.k * score_scale) * softcap_scale.
  float score_scale;
  float softcap_scale;  // 0: no soft-cap.
  bool keys_aligned;    // Rows of q and k, or of v, are multiples of 16 bytes.
  bool values_aligned;
  SoftmaxMask mask;
};

// One block for each tile of queries of each head of each sequence. Instantiated for float, __half
// and
// __nv_bfloat16, each in a file of its own.
template <typename T>
cudaError_t LaunchSoftmax(const SoftmaxArguments& arguments, unsigned blocks, cudaStream_t stream);

// Bytes of shared memory that a block takes for heads of `width`, the larger of K and V.
template <typename T>
int SoftmaxSharedMemory(int width);

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CORES_SOFTMAX_LAUNCH_H_
