// The softmax core on CUDA: streaming softmax over tiles of keys (Dao, "FlashAttention-2", 2023) on
// the tensor cores, for every operator that is softmax attention under some rule of who attends to
// whom.
#ifndef ATTND_KERNELS_CORES_SOFTMAX_CUDA_H_
#define ATTND_KERNELS_CORES_SOFTMAX_CUDA_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/core/call.h"
#include "kernels/core/tensor.h"
#include "kernels/primitives/primitives.h"

namespace attnd::cuda {

// The largest head size of queries, keys and values.
inline constexpr int64_t kMaxSoftmaxHeadSize = 256;

// Pointers in the rules are in the device's memory and outlive the queued work.

// Of a sequence with T queries and S keys, query i stands at position i + S - T, key j at j. Key j
// is allowed where it is not after the query (if causal), at most `left` before and `right` after
// it (-1: no limit; under causal `right` has no effect), and where pairs, if given, says so.
struct WindowMask {
  bool causal = false;
  int left = -1;
  int right = -1;
  const bool* pairs = nullptr;  // [B,T,S], or [T,S] with a batch stride of 0.
  int64_t pairs_batch_stride = 0;
  // One for each sequence: its first so many keys do not exist. Null: all do.
  const int64_t* missing_keys = nullptr;
};

// Queries are the tokens of a grid, row-major, outermost axis first; unused axes are last and of
// length
// 1. On each axis a query reads keys of its own dilation group (coordinate modulo dilation) from
// the first to the last of its coordinate's entry in bounds. Keys behind the grid are read by every
// query.
struct GridMask {
  int length[3] = {1, 1, 1};
  int dilation[3] = {1, 1, 1};
  const int* bounds = nullptr;  // For axis 0, 1, 2 in turn, length pairs (first, last).
};

// Query i reads key j if block j / block_size_k is listed for block i / block_size_q, or, if
// causal, j < sink or j is one of the `window` last keys up to the query's position; and, if
// causal, never a later key.
struct BlockMask {
  const bool* listed = nullptr;  // [list_batches, list_heads, query_blocks, key_blocks].
  int64_t list_batches = 1;      // 1, or one for each sequence of the call.
  int list_heads = 1;            // Divides H; consecutive heads share.
  int64_t query_blocks = 0;
  int64_t key_blocks = 0;
  int block_size_q = 64;
  int block_size_k = 64;
  bool causal = false;
  int sink = 0;
  int window = 0;
};

struct SoftmaxMask {
  enum class Kind : uint8_t { kWindow, kGrid, kBlocks };
  Kind kind = Kind::kWindow;
  WindowMask window;
  GridMask grid;
  BlockMask blocks;
};

// o_i = sum_j exp(s_ij) v_j / Z_i and lse_i = ln Z_i over the allowed keys j, with s_ij = scale
// q_i.k_j, then softcap tanh(s / softcap) if softcap > 0, and Z_i = sum_j exp(s_ij) (+ exp(sink of
// the head)). A query that may read nothing gives o = 0 and lse = -inf (or the sink).
struct SoftmaxCall {
  Tensor q;    // [B,T,H,K]; q, k, v, o are contiguous and of one type: float32, float16, bfloat16.
  Tensor k;    // [B,S,HK,K]
  Tensor v;    // [B,S,HV,V]
  Tensor o;    // [B,T,H,V]
  Tensor lse;  // [B,T,H] float32, or undefined.
  Tensor sinks;  // [H] float32, or undefined.
  // Queries and keys of each sequence: as many of one as of the other, in the same order.
  absl::Span<const Sequence> queries;
  absl::Span<const Sequence> keys;
  double scale = 1;
  double softcap = 0;
  SoftmaxMask mask;
};

// Whether the core takes these sizes and this type on every device of this machine.
bool SoftmaxSupports(DType dtype, int64_t key_size, int64_t value_size);

// A window, position or block size as the rules hold it: as good as any beyond the longest
// sequence.
int ClampToken(int64_t value);

// Queues the computation on the backend's stream. RESOURCE_EXHAUSTED if memory or the launch limits
// of the device do not suffice; INTERNAL if a launch fails.
absl::Status Softmax(Backend& backend, const SoftmaxCall& call);

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CORES_SOFTMAX_CUDA_H_
