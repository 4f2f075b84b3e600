#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/resize.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "carve",
      .paper = "Focusing by Contrastive Attention: Enhancing VLMs' Visual Reasoning (2025)",
      .summary = "Contrast of two attention maps: the question's map, mask and crop box",
      .core = "none",
      .definition =
          R"(From the attention maps of a question and of a general instruction on the same image, a contrast map, a mask of the question's regions and the box to crop ("Focusing by Contrastive Attention: Enhancing VLMs' Visual Reasoning", 2025).
  map = sum_u w_u sum_l resized (task_ul / (general_ul + lam)), w_u = u + 1, or 1 for step 0 alone mask: pixels at or above a percentile of the map, of which some 4-connected regions are kept)",
      .inputs =
          {"attn_task: float[B,U,L,P]|[B,U,L,H,P] ~probability  # the last position's attention to "
           "the image, of each generated step and layer (and head)",
           "attn_general: float[B,U2,L,P]|[B,U2,L,H2,P] ~probability  # for the general "
           "instruction"},
      .attributes =
          {"height: int >= 1  # of the grid of tokens", "width: int >= 1",
           "image_height: int >= 1  # of map and mask", "image_width: int >= 1",
           "lam: float = 1e-8 >= 0  # added to the general attention",
           "layers: int[]? >= 0  # indices into L; all when absent",
           "step_mode: {all, first} = all  # all: steps weighted 1, 2, 3, ...; first: step 0 alone",
           "strategy: {attention_sum, size, remove_small} = attention_sum  # how regions are kept",
           "top_percent: float = 0.2 > 0 < 1  # share of pixels, and of regions, that is kept",
           "min_keep_regions: int = 3 >= 1",
           "outlier_percent: float = 0.1 >= 0 <= 100  # of the mask's pixels: smaller regions go, "
           "with remove_small"},
      .outputs = {"map: float32[B,image_height,image_width]",
                  "mask: bool[B,image_height,image_width]",
                  "bbox: int32[B,4]  # x0, y0, x1, y1; the ends exclusive"},
      .rules = {"P == height * width  # height * width image tokens",
                "image_height >= height && image_width >= width  # an image of at least the grid"},
  };
  return schema;
}

absl::Status Check(const BoundCall& call) {
  if (!call.has_attribute("layers")) return absl::OkStatus();
  const std::vector<int64_t>& layers = call.integers("layers");
  const int64_t count = call.dim("L");
  const bool legal = !layers.empty() && *std::max_element(layers.begin(), layers.end()) < count;
  if (legal) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(call.spec().id(), ": layers: given ",
                                                 ToString(AttrValue(layers)),
                                                 ", expected indices of L=", count, " layers"));
}

// [B,P]: the contrast of all steps and layers. Resizing is linear, so it comes after the sums.
Array Contrast(Composer& c) {
  const auto maps = [&c](absl::string_view name) {
    Array x = c.In(name);
    if (x.rank() == 5) x = (Sum(x, 3) / static_cast<double>(x.dim(3))).Select(3, 0);
    if (!c.call().has_attribute("layers")) return x;
    const std::vector<int64_t>& layers = c.call().integers("layers");
    return Gather(x, c.FromHost(HostTensor<int64_t>({static_cast<int64_t>(layers.size())}, layers)),
                  2);
  };
  const bool all = c.choice("step_mode") == "all";
  const int64_t steps = all ? std::min(c.dim("U"), c.dim("U2")) : 1;
  const Array task = maps("attn_task").Slice(1, 0, steps);
  const Array general = maps("attn_general").Slice(1, 0, steps);
  const Array by_step = Sum(task / (general + c.real("lam")), 2).Select(2, 0);  // [B,steps,P]
  return Sum(by_step * c.Iota(steps, 1).Unsqueeze(1), 1).Select(1, 0);
}

// One image's map on the host, and what follows from it.
class Regions {
 public:
  Regions(std::vector<double> map, int64_t height, int64_t width, const BoundCall& call)
      : map_(std::move(map)), height_(height), width_(width), call_(call) {}

  // Writes mask [height,width] and box [4].
  void Write(bool* mask, int32_t* box) {
    Label(Threshold());
    const std::vector<bool> kept = Kept();
    int64_t x0 = width_, y0 = height_, x1 = 0, y1 = 0;
    for (size_t i = 0; i < map_.size(); ++i) {
      mask[i] = region_[i] >= 0 && kept[static_cast<size_t>(region_[i])];
      if (!mask[i]) continue;
      const int64_t x = static_cast<int64_t>(i) % width_, y = static_cast<int64_t>(i) / width_;
      x0 = std::min(x0, x);
      y0 = std::min(y0, y);
      x1 = std::max(x1, x + 1);
      y1 = std::max(y1, y + 1);
    }
    const bool empty = x1 == 0;
    box[0] = static_cast<int32_t>(empty ? 0 : x0);
    box[1] = static_cast<int32_t>(empty ? 0 : y0);
    box[2] = static_cast<int32_t>(empty ? width_ : x1);
    box[3] = static_cast<int32_t>(empty ? height_ : y1);
  }

 private:
  double Threshold() const {
    std::vector<double> sorted = map_;
    std::sort(sorted.begin(), sorted.end(), [](double a, double b) {
      return a < b || (std::isnan(b) && !std::isnan(a));  // NaN is the greatest.
    });
    const double rank = (1 - call_.real("top_percent")) * static_cast<double>(map_.size() - 1);
    const double floor = std::floor(rank);
    const auto low = static_cast<size_t>(floor);
    const size_t high = std::min(low + 1, map_.size() - 1);
    return sorted[low] + (rank - floor) * (sorted[high] - sorted[low]);
  }

  // Numbers the 4-connected parts of what reaches the threshold by their first pixel.
  void Label(double threshold) {
    region_.assign(map_.size(), -1);
    std::vector<int64_t> open;
    for (size_t first = 0; first < map_.size(); ++first) {
      if (region_[first] >= 0 || !(map_[first] >= threshold)) continue;
      const auto number = static_cast<int64_t>(size_.size());
      size_.push_back(0);
      sum_.push_back(0);
      const auto take = [&](int64_t i) {
        const auto at = static_cast<size_t>(i);
        if (region_[at] >= 0 || !(map_[at] >= threshold)) return;
        region_[at] = number;
        open.push_back(i);
      };
      for (take(static_cast<int64_t>(first)); !open.empty();) {
        const int64_t i = open.back();
        open.pop_back();
        size_.back() += 1;
        sum_.back() += map_[static_cast<size_t>(i)];
        if (i % width_ > 0) take(i - 1);
        if (i % width_ < width_ - 1) take(i + 1);
        if (i >= width_) take(i - width_);
        if (i < (height_ - 1) * width_) take(i + width_);
      }
    }
  }

  std::vector<bool> Kept() const {
    const size_t count = size_.size();
    std::vector<bool> kept(count);
    const std::string& strategy = call_.choice("strategy");
    if (strategy == "remove_small") {
      const double pixels = std::accumulate(size_.begin(), size_.end(), 0.0);
      const double least = std::floor(pixels * call_.real("outlier_percent") / 100);
      for (size_t r = 0; r < count; ++r) kept[r] = size_[r] >= least;
      return kept;
    }
    const std::vector<double>& score = strategy == "size" ? size_ : sum_;
    std::vector<size_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&score](size_t a, size_t b) {
      return score[a] > score[b] || (std::isnan(score[b]) && !std::isnan(score[a]));
    });
    const auto share = static_cast<int64_t>(static_cast<double>(count) * call_.real("top_percent"));
    const auto most = static_cast<size_t>(std::max(call_.integer("min_keep_regions"), share));
    for (size_t r = 0; r < std::min(most, count); ++r) kept[order[r]] = true;
    return kept;
  }

  const std::vector<double> map_;
  const int64_t height_, width_;
  const BoundCall& call_;
  std::vector<int64_t> region_;     // Of every pixel, -1: none.
  std::vector<double> size_, sum_;  // Of every region.
};

absl::Status Compose(Composer& c) {
  const int64_t rows = c.dim("B"), height = c.integer("image_height"),
                width = c.integer("image_width");
  const Array grid = Contrast(c).Reshape({rows, c.integer("height"), c.integer("width")});
  const Array map = ResizeLinear(ResizeLinear(grid, 1, height), 2, width);
  const Tensor host = c.ToHost(c.Cast(map, DType::kFloat64));
  if (!c.status().ok()) return c.status();
  absl::StatusOr<Tensor> mask = AllocateHost(DType::kBool, {rows, height, width});
  if (!mask.ok()) return mask.status();
  std::vector<int32_t> boxes(static_cast<size_t>(rows * 4));
  const int64_t pixels = height * width;
  for (int64_t b = 0; b < rows; ++b) {
    const auto* first = host.data<double>() + b * pixels;
    Regions(std::vector<double>(first, first + pixels), height, width, c.call())
        .Write(mask->data<bool>() + b * pixels, boxes.data() + 4 * b);
  }
  c.Out("map", map);
  c.Out("mask", c.FromHost(*mask));
  c.Out("bbox", c.FromHost(HostTensor<int32_t>({rows, 4}, boxes)));
  return c.status();
}

void Draw(RandomSource& source) {
  const int64_t height = source.Uniform(1, 6), width = source.Uniform(1, 6);
  source.Attribute("height", height);
  source.Attribute("width", width);
  source.Attribute("image_height", height + source.Uniform(0, 9));
  source.Attribute("image_width", width + source.Uniform(0, 9));
  source.Dim("P", height * width);
  const int64_t layers = source.Dim("L", source.Uniform(1, 4));
  if (!source.options().random_attributes) return;
  source.Attribute("layers", std::vector<int64_t>{layers - 1, 0});
  source.Attribute("top_percent", 0.05 + 0.9 * source.Uniform01());
  source.Attribute("min_keep_regions", source.Uniform(1, 3));
  source.Attribute("outlier_percent", 100 * source.Uniform01());
}

}  // namespace

void RegisterCarve(Registry& registry);

void RegisterCarve(Registry& registry) {
  Operator& op = registry.Add(Schema(), Compose);
  op.check = Check;
  op.random = Draw;
}

}  // namespace attnd
