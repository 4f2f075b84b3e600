// Which keys a query may attend to, on the device: the rules of the softmax core, and what tiles of
// keys they leave to compute.
//
// A rule reduces to three questions. What does query i allow, as a few bounds (MakeRow)? Must a
// tile of keys be computed at all, and if so, pair by pair (Classify)? May this query read this key
// (Allows)?
#ifndef ATTND_KERNELS_CORES_SOFTMAX_MASK_CUH_
#define ATTND_KERNELS_CORES_SOFTMAX_MASK_CUH_

#include <climits>
#include <cstdint>

#include "kernels/cores/softmax_cuda.h"

namespace attnd::cuda {

// The queries of one thread block, of one sequence and head.
struct QueryTile {
  int first;    // Row of the tile's first query.
  int rows;     // Rows that exist.
  int queries;  // Of the sequence: T.
  int keys;     // Of the sequence: S.
  int64_t batch_row;
  int64_t sequence;
  int head;
  int heads;

  __device__ int position(int row) const { return row + keys - queries; }
};

// Bounds on the keys of one query; an axis of a grid each, only the first for the other rules.
struct RowBounds {
  int low[3];
  int high[3];
  int residue;
};

// Extremes of the rows of a tile.
struct TileBounds {
  int low_min[3];
  int low_max[3];
  int high_min[3];
  int high_max[3];
};

enum class TileState : uint8_t { kSkip, kFull, kCheck };

struct KeyRange {
  int begin;
  int end;
};

// ---- Causal, windows and pairs
// --------------------------------------------------------------------

__device__ inline RowBounds MakeRow(const WindowMask& mask, const QueryTile& tile, int row) {
  const int p = tile.position(row);
  int low = mask.left < 0 ? 0 : max(0, p - mask.left);
  int high = tile.keys - 1;
  if (mask.causal) {
    high = min(high, p);
  } else if (mask.right >= 0) {
    high = min(high, p + mask.right);
  }
  if (mask.missing_keys != nullptr) {
    low = max(low, static_cast<int>(mask.missing_keys[tile.sequence]));
  }
  return {{low, 0, 0}, {high, 0, 0}, 0};
}

__device__ inline KeyRange Candidates(const WindowMask&, const QueryTile&,
                                      const TileBounds& bounds) {
  return {bounds.low_min[0], bounds.high_max[0] + 1};
}

__device__ inline TileState Classify(const WindowMask& mask, const QueryTile&,
                                     const TileBounds& bounds, int begin, int end) {
  if (begin > bounds.high_max[0] || end <= bounds.low_min[0]) return TileState::kSkip;
  if (mask.pairs != nullptr) return TileState::kCheck;
  const bool full = begin >= bounds.low_max[0] && end - 1 <= bounds.high_min[0];
  return full ? TileState::kFull : TileState::kCheck;
}

struct PlainKey {
  int index;
};

__device__ inline PlainKey MakeKey(const WindowMask&, const QueryTile&, int index) {
  return {index};
}

__device__ inline bool Allows(const WindowMask& mask, const QueryTile& tile, int row,
                              const RowBounds& bounds, PlainKey key) {
  if (key.index < bounds.low[0] || key.index > bounds.high[0]) return false;
  return mask.pairs == nullptr || mask.pairs[tile.batch_row * mask.pairs_batch_stride +
                                             static_cast<int64_t>(row) * tile.keys + key.index];
}

// ---- Neighbourhoods on a grid
// ---------------------------------------------------------------------

// Coordinates of a token on its grid and, as one number, its dilation group.
struct GridKey {
  int at[3];
  int residue;
  bool extra;  // Behind the grid: every query attends to it.
  bool exists;
};

__device__ inline GridKey Locate(const GridMask& mask, int token) {
  GridKey key{};
  int residue_scale = 1;
#pragma unroll
  for (int axis = 2; axis >= 0; --axis) {
    key.at[axis] = token % mask.length[axis];
    token /= mask.length[axis];
    key.residue += key.at[axis] % mask.dilation[axis] * residue_scale;
    residue_scale *= mask.dilation[axis];
  }
  return key;
}

__device__ inline RowBounds MakeRow(const GridMask& mask, const QueryTile&, int row) {
  const GridKey query = Locate(mask, row);
  RowBounds bounds;
  const int* table = mask.bounds;
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) {
    bounds.low[axis] = table[2 * query.at[axis]];
    bounds.high[axis] = table[2 * query.at[axis] + 1];
    table += 2 * mask.length[axis];
  }
  bounds.residue = query.residue;
  return bounds;
}

__device__ inline KeyRange Candidates(const GridMask& mask, const QueryTile& tile,
                                      const TileBounds& bounds) {
  const int plane = mask.length[1] * mask.length[2];
  const bool extras = tile.keys > tile.queries;
  return {bounds.low_min[0] * plane, extras ? tile.keys : (bounds.high_max[0] + 1) * plane};
}

__device__ inline TileState Classify(const GridMask& mask, const QueryTile& tile,
                                     const TileBounds& bounds, int begin, int end) {
  if (end > tile.queries) return TileState::kCheck;
  const GridKey first = Locate(mask, begin);
  const GridKey last = Locate(mask, end - 1);
  bool full = true;
  // As long as the tile lies at one coordinate of the outer axes it spans an interval of the next
  // one; behind that, take every coordinate for touched.
  bool one_line = true;
  for (int axis = 0; axis < 3; ++axis) {
    const int low = one_line ? first.at[axis] : 0;
    const int high = one_line ? last.at[axis] : mask.length[axis] - 1;
    if (low > bounds.high_max[axis] || high < bounds.low_min[axis]) return TileState::kSkip;
    full = full && mask.dilation[axis] == 1 && low >= bounds.low_max[axis] &&
           high <= bounds.high_min[axis];
    one_line = one_line && low == high;
  }
  return full ? TileState::kFull : TileState::kCheck;
}

__device__ inline GridKey MakeKey(const GridMask& mask, const QueryTile& tile, int index) {
  GridKey key = Locate(mask, min(index, tile.queries - 1));
  key.extra = index >= tile.queries;
  key.exists = index < tile.keys;
  return key;
}

__device__ inline bool Allows(const GridMask&, const QueryTile&, int, const RowBounds& bounds,
                              const GridKey& key) {
  bool near = key.residue == bounds.residue;
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) {
    near = near && key.at[axis] >= bounds.low[axis] && key.at[axis] <= bounds.high[axis];
  }
  return key.exists && (key.extra || near);
}

// ---- Lists of blocks
// ------------------------------------------------------------------------------

__device__ inline RowBounds MakeRow(const BlockMask& mask, const QueryTile& tile, int row) {
  const int p = tile.position(row);
  const int recent = mask.causal && mask.window > 0 ? max(0, p - mask.window + 1) : INT_MAX;
  const int last = mask.causal ? min(p, tile.keys - 1) : tile.keys - 1;
  return {{recent, 0, 0}, {last, 0, 0}, 0};
}

__device__ inline KeyRange Candidates(const BlockMask&, const QueryTile&,
                                      const TileBounds& bounds) {
  return {0, bounds.high_max[0] + 1};
}

// Listed[key block] of a block of queries.
__device__ inline const bool* ListOf(const BlockMask& mask, const QueryTile& tile,
                                     int query_block) {
  const int64_t list = tile.head / (tile.heads / mask.list_heads);
  const int64_t batch = mask.list_batches == 1 ? 0 : tile.sequence;
  return mask.listed +
         ((batch * mask.list_heads + list) * mask.query_blocks + query_block) * mask.key_blocks;
}

__device__ inline TileState Classify(const BlockMask& mask, const QueryTile& tile,
                                     const TileBounds& bounds, int begin, int end) {
  if (begin > bounds.high_max[0]) return TileState::kSkip;
  const bool below_last = end - 1 <= bounds.high_min[0];
  bool some = begin < mask.sink || end > bounds.low_min[0];
  bool all = end <= mask.sink || begin >= bounds.low_max[0];
  if (!all) {
    const int last_query_block = (tile.first + tile.rows - 1) / mask.block_size_q;
    const int last_key_block = (end - 1) / mask.block_size_k;
    all = true;
    for (int u = tile.first / mask.block_size_q; u <= last_query_block; ++u) {
      const bool* listed = ListOf(mask, tile, u);
      for (int block = begin / mask.block_size_k; block <= last_key_block; ++block) {
        some = some || listed[block];
        all = all && listed[block];
      }
      if (some && !all) break;
    }
  }
  if (all && below_last) return TileState::kFull;
  return some || all ? TileState::kCheck : TileState::kSkip;
}

struct BlockKey {
  int index;
  int block;
};

__device__ inline BlockKey MakeKey(const BlockMask& mask, const QueryTile& tile, int index) {
  return {index, min(index, tile.keys - 1) / mask.block_size_k};
}

__device__ inline bool Allows(const BlockMask& mask, const QueryTile& tile, int row,
                              const RowBounds& bounds, const BlockKey& key) {
  if (key.index > bounds.high[0]) return false;
  if (key.index < mask.sink || key.index >= bounds.low[0]) return true;
  return ListOf(mask, tile, row / mask.block_size_q)[key.block];
}

// ---- The rule of a call
// ---------------------------------------------------------------------------

template <typename F>
__device__ inline auto WithRule(const SoftmaxMask& mask, F f) {
  switch (mask.kind) {
    case SoftmaxMask::Kind::kGrid:
      return f(mask.grid);
    case SoftmaxMask::Kind::kBlocks:
      return f(mask.blocks);
    default:
      return f(mask.window);
  }
}

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CORES_SOFTMAX_MASK_CUH_
