// The softmax core on the CPU: streaming softmax over tiles of queries and keys (Dao,
// "FlashAttention-2", 2023), for every operator that is softmax attention under some rule of who
// attends to whom.
//
//   s_ij = scale q_i.k_j, then softcap tanh(s_ij / softcap) if softcap > 0
//   Z_i  = sum_j exp(s_ij) (+ exp(sink of the head)),  o_i = sum_j exp(s_ij) v_j / Z_i,  lse_i = ln
//   Z_i
//
// over the keys j that the rule allows. A query that may attend to nothing gives o = 0 and lse =
// -inf (or the sink). Memory is one float32 copy of k and v and some tiles; time follows the keys
// that are allowed.
#ifndef ATTND_KERNELS_CORES_SOFTMAX_H_
#define ATTND_KERNELS_CORES_SOFTMAX_H_

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/core/call.h"
#include "kernels/core/tensor.h"
#include "kernels/primitives/primitives.h"

namespace attnd::cpu {

// Where a tile of queries stands. Queries and keys are numbered from 0 within the sequence.
struct SoftmaxPlace {
  int64_t row;       // Batch row of the queries.
  int64_t sequence;  // Index of the sequence in the call.
  int64_t head;      // Query head.
  int64_t queries;   // How many the sequence has.
  int64_t keys;
};

// Consecutive keys; `full` promises that every query of the tile attends to every one of them.
struct KeyRun {
  int64_t begin;
  int64_t length;
  bool full;
};

// Who attends to whom. Const and safe from many threads.
class SoftmaxRule {
 public:
  // No tile of queries is longer.
  static constexpr int64_t kMaxQueries = 64;

  virtual ~SoftmaxRule() = default;

  // Length of the tile of queries that begins at `begin`, in [1, kMaxQueries]; the same for every
  // head.
  virtual int64_t TileLength(const SoftmaxPlace& place, int64_t begin) const;

  // Visits the keys that some query of [begin, begin + count) attends to, as disjoint runs in
  // ascending order. Runs that are not full may hold keys that no query attends to.
  virtual void ForEachRun(const SoftmaxPlace& place, int64_t begin, int64_t count,
                          absl::FunctionRef<void(const KeyRun&)> visit) const = 0;

  // Sets to -inf the scores[j] of those keys key + j, j < count, that `query` does not attend to.
  // Asked for parts of runs that are not full.
  virtual void Mask(const SoftmaxPlace& place, int64_t query, int64_t key, int64_t count,
                    float* scores) const = 0;
};

// Query i stands at position i + keys - queries, key j at j. A key is allowed where it is not after
// the query (if causal), at most `left` before it and `right` after it (-1: no limit; under causal
// `right` has no effect), and where `pairs`, if given, says so.
class WindowRule : public SoftmaxRule {
 public:
  struct Options {
    bool causal = false;
    int64_t left = -1;
    int64_t right = -1;
    // bool [B,T,S] or [T,S], contiguous; undefined: all.
    Tensor pairs;
    // The first missing_keys[i] keys of sequence i do not exist. Empty: all do.
    std::vector<int64_t> missing_keys;
  };
  explicit WindowRule(Options options);

  void ForEachRun(const SoftmaxPlace& place, int64_t begin, int64_t count,
                  absl::FunctionRef<void(const KeyRun&)> visit) const override;
  void Mask(const SoftmaxPlace& place, int64_t query, int64_t key, int64_t count,
            float* scores) const override;

 private:
  struct Range {
    int64_t begin;
    int64_t end;
  };
  Range Allowed(const SoftmaxPlace& place, int64_t query) const;

  Options options_;
};

struct SoftmaxCall {
  // Contiguous, each float32, float16 or bfloat16.
  Tensor q;      // [B,T,H,K]
  Tensor k;      // [B,S,HK,K], HK divides H
  Tensor v;      // [B,S,HV,V], HV divides H
  Tensor o;      // [B,T,H,V]
  Tensor lse;    // float32 [B,T,H], or undefined.
  Tensor sinks;  // float32 [H], or undefined.
  // Queries and keys of each sequence: as many of one as of the other, in the same order.
  absl::Span<const Sequence> queries;
  absl::Span<const Sequence> keys;
  double scale = 1;
  double softcap = 0;
  const SoftmaxRule* rule = nullptr;
  // Orders in which the rule numbers queries and keys: number i is token order[i] of its sequence.
  // Empty: as they stand.
  absl::Span<const int64_t> query_order;
  absl::Span<const int64_t> key_order;
};

// Float32 inside; the order of sums is a function of the sequence alone. RESOURCE_EXHAUSTED if
// memory does not suffice.
absl::Status Softmax(Backend& backend, const SoftmaxCall& call);

}  // namespace attnd::cpu

#endif  // ATTND_KERNELS_CORES_SOFTMAX_H_
