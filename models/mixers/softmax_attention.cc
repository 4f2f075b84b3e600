// Full or sliding-window softmax attention with rotary positions and grouped heads.
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "kernels/cores/replay_attention.h"
#include "kernels/cores/rope.h"
#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"
#include "models/layers/rows.h"
#include "models/layers/weights.h"
#include "models/mixers/mixer.h"

namespace attnd::models {
namespace {

// The library's default, whatever the config's norm_eps.
constexpr double kHeadNormEps = 1e-5;

class SoftmaxAttention final : public Mixer {
 public:
  SoftmaxAttention(const MixerSource& source, const AttentionSpec& spec, WeightReader& weights)
      : hidden_(source.config.hidden_size),
        heads_(spec.heads),
        kv_heads_(spec.kv_heads),
        size_(hidden_ / spec.heads),
        window_(spec.window),
        sizes_{size_, size_},
        frequencies_(RopeFrequencies(RopePairs::kHalf, size_, spec.rope_theta)) {
    const int64_t kv = kv_heads_ * size_;
    in_ = weights.Stack({{"q_proj", hidden_}, {"k_proj", kv}, {"v_proj", kv}}, hidden_);
    if (spec.qkv_bias) {
      for (const auto& [name, width] :
           {std::pair{"q_proj.bias", hidden_}, {"k_proj.bias", kv}, {"v_proj.bias", kv}}) {
        const Floats part = weights.Vector(name, {width});
        bias_.insert(bias_.end(), part.begin(), part.end());
      }
    }
    if (spec.qk_norm) {
      query_norm_ = weights.Vector("q_norm.weight", {size_});
      key_norm_ = weights.Vector("k_norm.weight", {size_});
    }
    out_ = weights.Matrix("o_proj", hidden_, hidden_);
  }

  LayerLayout layout() const override {
    return {.page = kv_heads_ * sizes_.page_size(), .window = window_};
  }

  void Run(const Step& step, int64_t layer, const float* x, float* y) const override {
    const int64_t width = (heads_ + 2 * kv_heads_) * size_;
    cpu::Scratch scratch;
    float* rows = scratch.Take<float>(step.rows * width);
    float* outputs = scratch.Take<float>(step.rows * hidden_);
    in_.Multiply(x, step.rows, rows);
    ForRows(step, 20.0 * static_cast<double>(step.rows * width),
            [&](int64_t r, int64_t position) { Prepare(position, rows + r * width); });
    // A head's keys are all written before its queries are asked: a page is one task's alone.
    const auto segments = static_cast<int64_t>(step.segments.size());
    cpu::ParallelFor(segments * kv_heads_, 4.0 * static_cast<double>(step.rows * width),
                     [&](int64_t task) {
                       Write(step.segments[static_cast<size_t>(task / kv_heads_)], layer,
                             task % kv_heads_, rows, width);
                     });
    double pairs = 0;
    for (const Segment& segment : step.segments) {
      pairs += static_cast<double>(segment.count) *
               static_cast<double>(segment.state->position() + segment.count);
    }
    // Tasks of some rows each: a long prompt is not one thread's.
    constexpr int64_t kRows = 8;
    std::vector<std::pair<const Segment*, int64_t>> runs;
    for (const Segment& segment : step.segments) {
      for (int64_t first = 0; first < segment.count; first += kRows) {
        runs.emplace_back(&segment, first);
      }
    }
    cpu::ParallelFor(static_cast<int64_t>(runs.size()) * heads_,
                     4.0 * pairs * static_cast<double>(hidden_), [&](int64_t task) {
                       const auto& [segment, first] = runs[static_cast<size_t>(task / heads_)];
                       Read(*segment, layer, task % heads_, first,
                            std::min(segment->count, first + kRows), rows, width, outputs);
                     });
    out_.Multiply(outputs, step.rows, y);
  }

 private:
  // Bias, norms, positions and scale of one projected row [q | k | v].
  void Prepare(int64_t position, float* row) const {
    const int64_t all = heads_ + kv_heads_;
    if (!bias_.empty()) {
      cpu::AddRow(row, bias_.data(), row, static_cast<int64_t>(bias_.size()));
    }
    for (int64_t h = 0; !query_norm_.empty() && h < all; ++h) {
      const Floats& norm = h < heads_ ? query_norm_ : key_norm_;
      RmsNormRow(row + h * size_, size_, kHeadNormEps, norm, row + h * size_);
    }
    RotateHeads(frequencies_, position, all, row);
    cpu::ScaleRow(row, 1 / std::sqrt(static_cast<float>(size_)), heads_ * size_);
  }

  void Write(const Segment& segment, int64_t layer, int64_t head, const float* rows,
             int64_t width) const {
    const std::vector<Tensor>& pages = segment.state->layer(layer).pages;
    for (int64_t t = 0; t < segment.count; ++t) {
      const int64_t position = segment.state->position() + t;
      const float* key = rows + (segment.row + t) * width + (heads_ + head) * size_;
      float* page = pages[static_cast<size_t>(position / cpu::kPage)].data<float>();
      cpu::WritePage(sizes_, position, key, key + kv_heads_ * size_,
                     page + head * sizes_.page_size());
    }
  }

  void Read(const Segment& segment, int64_t layer, int64_t head, int64_t first, int64_t last,
            const float* rows, int64_t width, float* outputs) const {
    const std::vector<Tensor>& pages = segment.state->layer(layer).pages;
    const int64_t own = head / (heads_ / kv_heads_);
    cpu::Scratch scratch;
    const float** views = scratch.Take<const float*>(static_cast<int64_t>(pages.size()));
    for (size_t i = 0; i < pages.size(); ++i) {
      views[i] = pages[i].defined() ? pages[i].data<float>() + own * sizes_.page_size() : nullptr;
    }
    for (int64_t t = first; t < last; ++t) {
      const int64_t r = segment.row + t;
      cpu::ReplayQuery(sizes_, segment.state->position() + t, window_ == 0 ? -1 : window_ - 1,
                       {views, pages.size()}, rows + r * width + head * size_,
                       outputs + r * hidden_ + head * size_);
    }
  }

  const int64_t hidden_, heads_, kv_heads_, size_, window_;
  const cpu::ReplayHeads sizes_;
  const std::vector<double> frequencies_;
  cpu::PackedMatrix in_, out_;
  Floats bias_, query_norm_, key_norm_;
};

}  // namespace

MixerOr MakeSoftmaxAttention(const MixerSource& source, const AttentionSpec& spec) {
  WeightReader weights(source.checkpoint, source.prefix);
  auto mixer = std::make_unique<SoftmaxAttention>(source, spec, weights);
  if (!weights.status().ok()) return weights.status();
  return mixer;
}

}  // namespace attnd::models
