#include "kernels/cores/mask_rules.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace attnd::cpu {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

struct KeyRange {
  int64_t begin;
  int64_t end;
};

// The keys that a slice grants to one of its queries.
KeyRange KeysOf(const MaskSlice& slice, int64_t query) {
  return {std::max(slice.first_key, query + slice.least),
          std::min(slice.end_key, query + slice.most + 1)};
}

// Neighbouring runs of a kind become one.
class RunMerger {
 public:
  explicit RunMerger(absl::FunctionRef<void(const KeyRun&)> visit) : visit_(visit) {}
  ~RunMerger() {
    if (open_.length > 0) visit_(open_);
  }
  RunMerger(const RunMerger&) = delete;
  RunMerger& operator=(const RunMerger&) = delete;

  void Add(int64_t begin, int64_t end, bool full) {
    if (begin >= end) return;
    if (open_.length > 0 && open_.begin + open_.length == begin && open_.full == full) {
      open_.length += end - begin;
      return;
    }
    if (open_.length > 0) visit_(open_);
    open_ = KeyRun{begin, end - begin, full};
  }

 private:
  absl::FunctionRef<void(const KeyRun&)> visit_;
  KeyRun open_{0, 0, false};
};

}  // namespace

SliceRule::SliceRule(const std::vector<MaskSlice>& slices, int64_t queries)
    : by_tile_(static_cast<size_t>((queries + kMaxQueries - 1) / kMaxQueries)) {
  for (const MaskSlice& slice : slices) {
    if (slice.first_query >= slice.end_query || slice.first_key >= slice.end_key) continue;
    const int64_t last = (slice.end_query - 1) / kMaxQueries;
    for (int64_t tile = slice.first_query / kMaxQueries; tile <= last; ++tile) {
      by_tile_[static_cast<size_t>(tile)].push_back(slice);
    }
  }
}

void SliceRule::ForEachRun(const SoftmaxPlace& /*place*/, int64_t begin, int64_t count,
                           absl::FunctionRef<void(const KeyRun&)> visit) const {
  // Where slices that reach some query, and those that reach every query, begin and end.
  struct Edge {
    int64_t key;
    int some;
    int every;
  };
  std::vector<Edge> edges;
  const auto add = [&edges](KeyRange keys, bool every) {
    if (keys.begin >= keys.end) return;
    edges.push_back({keys.begin, every ? 0 : 1, every ? 1 : 0});
    edges.push_back({keys.end, every ? 0 : -1, every ? -1 : 0});
  };
  for (const MaskSlice& slice : by_tile_[static_cast<size_t>(begin / kMaxQueries)]) {
    const int64_t first = std::max(begin, slice.first_query);
    const int64_t last = std::min(begin + count, slice.end_query) - 1;
    if (first > last) continue;
    add({KeysOf(slice, first).begin, KeysOf(slice, last).end}, false);
    if (first == begin && last == begin + count - 1) {
      add({KeysOf(slice, last).begin, KeysOf(slice, first).end}, true);
    }
  }
  std::sort(edges.begin(), edges.end(), [](const Edge& a, const Edge& b) { return a.key < b.key; });
  RunMerger runs(visit);
  int some = 0;
  int every = 0;
  int64_t from = 0;
  for (const Edge& edge : edges) {
    if (some > 0) runs.Add(from, edge.key, every > 0);
    some += edge.some;
    every += edge.every;
    from = edge.key;
  }
}

void SliceRule::Mask(const SoftmaxPlace& /*place*/, int64_t query, int64_t key, int64_t count,
                     float* scores) const {
  const std::vector<MaskSlice>& slices = by_tile_[static_cast<size_t>(query / kMaxQueries)];
  const int64_t end = key + count;
  for (int64_t at = key; at < end;) {
    // How far the keys from here on are granted; if they are not, where the next are.
    int64_t granted = at;
    int64_t next = end;
    for (const MaskSlice& slice : slices) {
      if (query < slice.first_query || query >= slice.end_query) continue;
      const KeyRange keys = KeysOf(slice, query);
      if (keys.end <= at || keys.begin >= keys.end) continue;
      if (keys.begin <= at) {
        granted = std::max(granted, keys.end);
      } else {
        next = std::min(next, keys.begin);
      }
    }
    if (granted == at) std::fill(scores + at - key, scores + next - key, kMinusInfinity);
    at = granted > at ? granted : next;
  }
}

ColumnRule::ColumnRule(std::vector<Ranges> ranges, int64_t rows, int64_t heads, int64_t keys,
                       int64_t query_heads)
    : ranges_(std::move(ranges)),
      rows_(rows),
      heads_(heads),
      keys_(keys),
      tiles_((keys + kKeys - 1) / kKeys),
      heads_per_list_(query_heads / heads) {
  constexpr int32_t kNever = std::numeric_limits<int32_t>::max();
  bounds_.assign(static_cast<size_t>(rows * heads * tiles_),
                 Bounds{{kNever, kNever}, {0, 0}, {0, 0}, {kNever, kNever}});
  for (int64_t list = 0; list < rows * heads; ++list) {
    for (int64_t j = 0; j < keys; ++j) {
      const Ranges& range = ranges_[static_cast<size_t>(list * keys + j)];
      Bounds& tile = bounds_[static_cast<size_t>(list * tiles_ + j / kKeys)];
      for (size_t n = 0; n < 2; ++n) {
        tile.common_begin[n] = std::max(tile.common_begin[n], range.begin[n]);
        tile.common_end[n] = std::min(tile.common_end[n], range.end[n]);
        if (range.begin[n] >= range.end[n]) continue;
        tile.touched_begin[n] = std::min(tile.touched_begin[n], range.begin[n]);
        tile.touched_end[n] = std::max(tile.touched_end[n], range.end[n]);
      }
    }
  }
}

int64_t ColumnRule::List(const SoftmaxPlace& place) const {
  return (rows_ == 1 ? 0 : place.row) * heads_ + place.head / heads_per_list_;
}

void ColumnRule::ForEachRun(const SoftmaxPlace& place, int64_t begin, int64_t count,
                            absl::FunctionRef<void(const KeyRun&)> visit) const {
  const Bounds* bounds = bounds_.data() + List(place) * tiles_;
  RunMerger runs(visit);
  for (int64_t tile = 0; tile < tiles_; ++tile) {
    const Bounds& bound = bounds[tile];
    bool free = true;
    bool shut = false;
    for (size_t n = 0; n < 2; ++n) {
      free &= begin >= bound.touched_end[n] || begin + count <= bound.touched_begin[n];
      shut |= begin >= bound.common_begin[n] && begin + count <= bound.common_end[n];
    }
    if (!shut) runs.Add(tile * kKeys, std::min(keys_, (tile + 1) * kKeys), free);
  }
}

void ColumnRule::Mask(const SoftmaxPlace& place, int64_t query, int64_t key, int64_t count,
                      float* scores) const {
  const Ranges* ranges = ranges_.data() + List(place) * keys_ + key;
  for (int64_t j = 0; j < count; ++j) {
    const Ranges& range = ranges[j];
    const bool forbidden = (query >= range.begin[0] && query < range.end[0]) ||
                           (query >= range.begin[1] && query < range.end[1]);
    if (forbidden) scores[j] = kMinusInfinity;
  }
}

}  // namespace attnd::cpu
