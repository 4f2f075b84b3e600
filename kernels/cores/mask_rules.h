// Masks that are given by a rule, by rectangles or by row ranges of each key, as rules of the
// softmax core: memory follows the rectangles or the keys, never the pairs ("Long-Context Attention
// Benchmark", 2025; the columns: FlashMask, 2024).
#ifndef ATTND_KERNELS_CORES_MASK_RULES_H_
#define ATTND_KERNELS_CORES_MASK_RULES_H_

#include <array>
#include <cstdint>
#include <vector>

#include "kernels/cores/softmax.h"

namespace attnd::cpu {

// Pairs of queries [first_query, end_query) and keys [first_key, end_key) with
// least <= key - query <= most. Windows, triangles, documents and prefixes are unions of these.
struct MaskSlice {
  static constexpr int64_t kFar = int64_t{1} << 48;

  int64_t first_query;
  int64_t end_query;
  int64_t first_key;
  int64_t end_key;
  int64_t least = -kFar;
  int64_t most = kFar;
};

// A query attends to a key if some slice holds the pair; slices may overlap. The same for all rows
// of the batch and all heads.
class SliceRule final : public SoftmaxRule {
 public:
  // Slices lie within the queries and keys of the call.
  SliceRule(const std::vector<MaskSlice>& slices, int64_t queries);

  void ForEachRun(const SoftmaxPlace& place, int64_t begin, int64_t count,
                  absl::FunctionRef<void(const KeyRun&)> visit) const override;
  void Mask(const SoftmaxPlace& place, int64_t query, int64_t key, int64_t count,
            float* scores) const override;

 private:
  std::vector<std::vector<MaskSlice>> by_tile_;  // Those that a tile of queries meets.
};

// Query i does not attend to key j if a range of the key holds it: ranges[j] are two, half-open,
// possibly empty.
class ColumnRule final : public SoftmaxRule {
 public:
  struct Ranges {
    std::array<int32_t, 2> begin;
    std::array<int32_t, 2> end;
  };
  // ranges of [rows,heads,keys]: rows 1 or one for each row of the batch, heads divide
  // `query_heads`, and consecutive query heads share.
  ColumnRule(std::vector<Ranges> ranges, int64_t rows, int64_t heads, int64_t keys,
             int64_t query_heads);

  void ForEachRun(const SoftmaxPlace& place, int64_t begin, int64_t count,
                  absl::FunctionRef<void(const KeyRun&)> visit) const override;
  void Mask(const SoftmaxPlace& place, int64_t query, int64_t key, int64_t count,
            float* scores) const override;

 private:
  static constexpr int64_t kKeys = 64;  // Of a tile.

  // Of a tile of keys: queries outside [touched_begin, touched_end) are kept from none of it by the
  // first or second ranges; those in [common_begin, common_end) from all of it.
  struct Bounds {
    std::array<int32_t, 2> touched_begin, touched_end, common_begin, common_end;
  };
  int64_t List(const SoftmaxPlace& place) const;

  std::vector<Ranges> ranges_;  // [rows,heads,keys]
  std::vector<Bounds> bounds_;  // [rows,heads,tiles]
  int64_t rows_, heads_, keys_, tiles_, heads_per_list_;
};

}  // namespace attnd::cpu

#endif  // ATTND_KERNELS_CORES_MASK_RULES_H_
