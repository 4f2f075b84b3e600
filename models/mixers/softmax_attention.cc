// Full or sliding-window softmax attention with rotary positions and grouped heads.
#include <cmath>
#include <memory>
#include <tuple>
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
  explicit SoftmaxAttention(decode::AttentionProgram program)
      : program_(std::move(program)),
        heads_(program_.heads),
        kv_heads_(program_.kv_heads),
        size_(program_.head_size),
        hidden_(heads_ * size_),
        window_(program_.window),
        sizes_{size_, size_} {}

  decode::MixerProgram program() const override { return &program_; }

  LayerLayout layout() const override {
    return {.page = kv_heads_ * sizes_.page_size(), .window = window_};
  }

  void Run(const Step& step, int64_t layer, const float* x, float* y) const override {
    const int64_t width = (heads_ + 2 * kv_heads_) * size_;
    cpu::Scratch scratch;
    float* rows = scratch.Take<float>(step.rows * width);
    float* outputs = scratch.Take<float>(step.rows * hidden_);
    program_.in.Multiply(x, step.rows, rows);
    ForRows(step, 20.0 * static_cast<double>(step.rows * width), [&](int64_t r, int64_t position) {
      decode::RunRowOps(program_.ops, position, rows + r * width);
    });
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
    program_.out.Multiply(outputs, step.rows, y);
  }

 private:
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

  const decode::AttentionProgram program_;
  const int64_t heads_, kv_heads_, size_, hidden_, window_;
  const cpu::ReplayHeads sizes_;
};

}  // namespace

MixerOr MakeSoftmaxAttention(const MixerSource& source, const AttentionSpec& spec) {
  using decode::RowOpKind;
  WeightReader weights(source.checkpoint, source.prefix);
  decode::AttentionProgram program;
  const int64_t hidden = source.config.hidden_size;
  program.heads = spec.heads;
  program.kv_heads = spec.kv_heads;
  program.head_size = hidden / spec.heads;
  program.window = spec.window;
  const int64_t size = program.head_size, kv = spec.kv_heads * size;
  const decode::RowSpan q{0, hidden}, k{hidden, kv}, qk{0, hidden + kv};
  program.in = weights.Stack({{"q_proj", hidden}, {"k_proj", kv}, {"v_proj", kv}}, hidden);
  if (spec.qkv_bias) {
    Floats bias;
    for (const auto& [name, width] :
         {std::pair{"q_proj.bias", hidden}, {"k_proj.bias", kv}, {"v_proj.bias", kv}}) {
      const Floats part = weights.Vector(name, {width});
      bias.insert(bias.end(), part.begin(), part.end());
    }
    program.ops.push_back(
        {.kind = RowOpKind::kAdd, .at = {0, hidden + 2 * kv}, .v = std::move(bias)});
  }
  if (spec.qk_norm) {
    for (const auto& [name, at, heads] :
         {std::tuple{"q_norm.weight", q, spec.heads}, {"k_norm.weight", k, spec.kv_heads}}) {
      program.ops.push_back({.kind = RowOpKind::kRmsNorm,
                             .at = at,
                             .parts = heads,
                             .a = kHeadNormEps,
                             .v = weights.Vector(name, {size})});
    }
  }
  program.ops.push_back({.kind = RowOpKind::kRotate,
                         .at = qk,
                         .parts = spec.heads + spec.kv_heads,
                         .frequencies = RopeFrequencies(RopePairs::kHalf, size, spec.rope_theta)});
  program.ops.push_back(
      {.kind = RowOpKind::kScale, .at = q, .a = 1 / std::sqrt(static_cast<double>(size))});
  program.out = weights.Matrix("o_proj", hidden, hidden);
  if (!weights.status().ok()) return weights.status();
  return std::make_unique<const SoftmaxAttention>(std::move(program));
}

}  // namespace attnd::models
