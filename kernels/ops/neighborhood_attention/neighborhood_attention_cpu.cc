#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/core/registry.h"
#include "kernels/cores/neighborhood.h"
#include "kernels/cores/softmax.h"

namespace attnd {
namespace {

using Point = std::array<int64_t, 3>;

// The grid with its tokens renumbered: dilation groups one after the other, each an undilated grid
// of its own. Keys are numbered row by row within a group, queries tile by tile: a compact tile
// reads a compact box.
class GridRule final : public cpu::SoftmaxRule {
 public:
  GridRule(const std::vector<NeighborhoodAxis>& axes, int64_t extra_keys) {
    std::copy(axes.begin(), axes.end(), axes_.end() - static_cast<std::ptrdiff_t>(axes.size()));
    Point group;
    for (group[0] = 0; group[0] < axes_[0].dilation; ++group[0]) {
      for (group[1] = 0; group[1] < axes_[1].dilation; ++group[1]) {
        for (group[2] = 0; group[2] < axes_[2].dilation; ++group[2]) AddGroup(group);
      }
    }
    tokens_ = static_cast<int64_t>(key_order_.size());
    for (int64_t i = 0; i < extra_keys; ++i) key_order_.push_back(tokens_ + i);
  }

  const std::vector<int64_t>& query_order() const { return query_order_; }
  const std::vector<int64_t>& key_order() const { return key_order_; }

  int64_t TileLength(const cpu::SoftmaxPlace& /*place*/, int64_t begin) const override {
    return TileAt(begin).count;
  }

  void ForEachRun(const cpu::SoftmaxPlace& place, int64_t begin, int64_t /*count*/,
                  absl::FunctionRef<void(const cpu::KeyRun&)> visit) const override {
    const Tile& tile = TileAt(begin);
    const Group& group = groups_[tile.group];
    // Keys that some query reads, and those that all of them read.
    Point from, to, common_from, common_to;
    for (size_t a = 0; a < 3; ++a) {
      const NeighborhoodAxis::Range first = axes_[a].Neighbours(group.index[a], tile.from[a]);
      const NeighborhoodAxis::Range last = axes_[a].Neighbours(group.index[a], tile.to[a] - 1);
      from[a] = first.begin;
      to[a] = last.end;
      common_from[a] = last.begin;
      common_to[a] = first.end;
    }
    const auto common = [&](size_t a, int64_t x) {
      return x >= common_from[a] && x < common_to[a];
    };
    const bool whole_line = common_from[2] == from[2] && common_to[2] == to[2];
    for (int64_t d = from[0]; d < to[0]; ++d) {
      for (int64_t h = from[1]; h < to[1]; ++h) {
        visit(cpu::KeyRun{group.first + (d * group.size[1] + h) * group.size[2] + from[2],
                          to[2] - from[2], whole_line && common(0, d) && common(1, h)});
      }
    }
    if (place.keys > tokens_) visit(cpu::KeyRun{tokens_, place.keys - tokens_, true});
  }

  void Mask(const cpu::SoftmaxPlace& /*place*/, int64_t query, int64_t key, int64_t count,
            float* scores) const override {
    constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
    const Tile& tile = TileAt(query);
    const Group& group = groups_[tile.group];
    const Point member = MemberOf(tile, query);
    // The keys lie in one line of the group.
    const int64_t line = (key - group.first) / group.size[2];
    const int64_t begin = (key - group.first) % group.size[2];
    const Point at = {line / group.size[1], line % group.size[1], begin};
    std::array<NeighborhoodAxis::Range, 3> range;
    for (size_t a = 0; a < 3; ++a) range[a] = axes_[a].Neighbours(group.index[a], member[a]);
    int64_t from = std::clamp<int64_t>(range[2].begin - begin, 0, count);
    int64_t to = std::clamp<int64_t>(range[2].end - begin, from, count);
    for (size_t a = 0; a < 2; ++a) {
      if (at[a] < range[a].begin || at[a] >= range[a].end) from = to = 0;
    }
    std::fill(scores, scores + from, kMinusInfinity);
    std::fill(scores + to, scores + count, kMinusInfinity);
  }

 private:
  struct Group {
    Point index;
    Point size;
    int64_t first;  // Number of its first token.
  };

  // Members [from, to) of a group.
  struct Tile {
    size_t group;
    Point from;
    Point to;
    int64_t first;  // Number of its first query.
    int64_t count;
  };

  const Tile& TileAt(int64_t query) const {
    const auto after =
        std::upper_bound(tiles_.begin(), tiles_.end(), query,
                         [](int64_t number, const Tile& tile) { return number < tile.first; });
    return *(after - 1);
  }

  Point MemberOf(const Tile& tile, int64_t query) const {
    const int64_t i = query - tile.first;
    const int64_t rows = tile.to[1] - tile.from[1], columns = tile.to[2] - tile.from[2];
    return {tile.from[0] + i / (rows * columns), tile.from[1] + i / columns % rows,
            tile.from[2] + i % columns};
  }

  int64_t TokenOf(const Group& group, const Point& member) const {
    int64_t token = 0;
    for (size_t a = 0; a < 3; ++a) {
      token = token * axes_[a].length + group.index[a] + member[a] * axes_[a].dilation;
    }
    return token;
  }

  template <typename Body>
  static void ForEachPoint(const Point& from, const Point& to, Body body) {
    for (int64_t d = from[0]; d < to[0]; ++d) {
      for (int64_t h = from[1]; h < to[1]; ++h) {
        for (int64_t w = from[2]; w < to[2]; ++w) body(Point{d, h, w});
      }
    }
  }

  // As near to a cube as the axes allow.
  static Point TileExtent(const Point& size) {
    Point extent = {1, 1, 1};
    for (int64_t volume = 1; volume < kMaxQueries; volume *= 2) {
      size_t shortest = 3;
      for (size_t a = 3; a-- > 0;) {
        if (extent[a] < size[a] && (shortest == 3 || extent[a] < extent[shortest])) shortest = a;
      }
      if (shortest == 3) break;
      extent[shortest] *= 2;
    }
    return extent;
  }

  void AddGroup(const Point& index) {
    Group group{index, {}, static_cast<int64_t>(key_order_.size())};
    for (size_t a = 0; a < 3; ++a) group.size[a] = axes_[a].GroupLength(index[a]);
    ForEachPoint({}, group.size,
                 [&](const Point& member) { key_order_.push_back(TokenOf(group, member)); });
    const Point extent = TileExtent(group.size);
    Point tiles;
    for (size_t a = 0; a < 3; ++a) tiles[a] = (group.size[a] + extent[a] - 1) / extent[a];
    ForEachPoint({}, tiles, [&](const Point& place) {
      Tile tile{groups_.size(), {}, {}, static_cast<int64_t>(query_order_.size()), 1};
      for (size_t a = 0; a < 3; ++a) {
        tile.from[a] = place[a] * extent[a];
        tile.to[a] = std::min(tile.from[a] + extent[a], group.size[a]);
        tile.count *= tile.to[a] - tile.from[a];
      }
      ForEachPoint(tile.from, tile.to,
                   [&](const Point& member) { query_order_.push_back(TokenOf(group, member)); });
      tiles_.push_back(tile);
    });
    groups_.push_back(group);
  }

  std::array<NeighborhoodAxis, 3> axes_;  // Missing outer axes have length 1.
  std::vector<Group> groups_;
  std::vector<Tile> tiles_;
  std::vector<int64_t> query_order_;
  std::vector<int64_t> key_order_;
  int64_t tokens_ = 0;
};

absl::Status Run(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  absl::StatusOr<Tensor> k = WithExtra(backend, call.input("k"), call.input("k_extra"));
  if (!k.ok()) return k.status();
  absl::StatusOr<Tensor> v = WithExtra(backend, call.input("v"), call.input("v_extra"));
  if (!v.ok()) return v.status();
  const GridRule rule(NeighborhoodAxes(call), call.dim("E"));
  std::vector<Sequence> queries, keys;
  for (int64_t row = 0; row < call.dim("B"); ++row) {
    queries.push_back(Sequence{row, 0, call.dim("N"), row});
    keys.push_back(Sequence{row, 0, k->dim(1), row});
  }
  cpu::SoftmaxCall core;
  core.q = call.input("q");
  core.k = *std::move(k);
  core.v = *std::move(v);
  core.o = *outputs.Find("o");
  if (const Tensor* lse = outputs.Find("lse")) core.lse = *lse;
  core.queries = queries;
  core.keys = keys;
  core.scale = call.real("scale");
  core.rule = &rule;
  core.query_order = rule.query_order();
  core.key_order = rule.key_order();
  return cpu::Softmax(backend, core);
}

}  // namespace

void RegisterNeighborhoodAttentionCpu(Registry& registry);

void RegisterNeighborhoodAttentionCpu(Registry& registry) {
  registry.AddKernel("neighborhood_attention",
                     {"stream_cpu", Device::kCpu, [](const BoundCall&) { return true; }, Run});
}

}  // namespace attnd
