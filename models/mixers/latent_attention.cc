// model_type mla: softmax attention whose keys and values are linear in one latent per token, which
// is what the pages hold, beside one rotated key for all heads.
//
//   c = RMSNorm(kv_proj.0 x),  r = rope(k_rope x),  [q^n | q^r] = W_q x,  [W_k; W_v] = kv_proj.2
//   logit(t,s) = (W_k^T q^n_t)·c_s + rope(q^r_t)·r_s,  o_t = W_v sum_s softmax_s(logit) c_s
//
// A query goes to the latents, and not they to it: a step reads R + Dr floats a token for all
// heads.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cores/replay_attention.h"
#include "kernels/cores/rope.h"
#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"
#include "models/config_reader.h"
#include "models/layers/rows.h"
#include "models/layers/weights.h"
#include "models/mixers/mixer.h"

namespace attnd::models {
namespace {

// The library's default, whatever the config's norm_eps.
constexpr double kLatentNormEps = 1e-5;
// Rows of a task: a long prompt is not one thread's.
constexpr int64_t kRows = 8;

struct LatentSizes {
  int64_t hidden, heads;
  int64_t query_rank;  // 0: queries come from one product.
  int64_t rank;        // R
  int64_t content;     // Dn, of a query that meets latents.
  int64_t rope;        // Dr
  int64_t value;       // Dv
  int64_t window;      // 0: none.
  double rope_theta;

  int64_t query() const { return content + rope; }
  int64_t cached() const { return rank + rope; }
};

LatentSizes ReadSizes(const ModelConfig& model, ConfigReader& config) {
  LatentSizes sizes{};
  sizes.hidden = model.hidden_size;
  sizes.heads = config.Positive("num_heads", 16);
  // Null says that there is none.
  sizes.query_rank = model.json.contains("q_lora_rank") ? config.Positive("q_lora_rank", 0) : 64;
  sizes.rank = config.Positive("kv_lora_rank", 512);
  sizes.content = config.Positive("qk_nope_head_dim", 128);
  sizes.rope = config.Positive("qk_rope_head_dim", 64);
  sizes.value = config.Positive("v_head_dim", 128);
  sizes.window = config.Positive("window_size", 0);
  sizes.rope_theta = config.Real("rope_theta", 10000);
  if (sizes.rope_theta <= 0) config.Fail("rope_theta", "a number above 0");
  if (sizes.rope % 2 != 0) config.Fail("qk_rope_head_dim", "an even number");
  const int64_t given = model.json.contains("qk_head_dim") ? sizes.query() : 192;
  if (config.Positive("qk_head_dim", given) != sizes.query()) {
    config.Fail("qk_head_dim",
                absl::StrCat("qk_nope_head_dim + qk_rope_head_dim, ", sizes.query()));
  }
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!config.has(key)) continue;
    const nlohmann::json& scaling = model.json[key];
    if (!scaling.is_object() || scaling.value("rope_type", "default") != "default") {
      config.Fail(key, "null, or rope_type \"default\"");
    }
  }
  return sizes;
}

class LatentAttention final : public Mixer {
 public:
  LatentAttention(const LatentSizes& sizes, WeightReader& weights)
      : sizes_(sizes),
        page_{sizes.cached(), sizes.rank, /*latent=*/true},
        frequencies_(RopeFrequencies(RopePairs::kHalf, sizes.rope, sizes.rope_theta)) {
    const bool low = sizes.query_rank > 0;
    const int64_t queries = sizes.heads * sizes.query();
    first_ = low ? sizes.query_rank : queries;
    in_ = weights.Stack(
        {{low ? "q_proj.0" : "q_proj", first_}, {"kv_proj.0", sizes.rank}, {"k_rope", sizes.rope}},
        sizes.hidden);
    if (low) {
      query_norm_ = weights.Vector("q_proj.1.weight", {sizes.query_rank});
      query_up_ = weights.Matrix("q_proj.2", queries, sizes.query_rank);
    }
    latent_norm_ = weights.Vector("kv_proj.1.weight", {sizes.rank});
    ReadHeads(weights);
    out_ = weights.Matrix("o_proj", sizes.hidden, sizes.heads * sizes.value);
  }

  LayerLayout layout() const override {
    return {.page = page_.page_size(), .window = sizes_.window};
  }

  void Run(const Step& step, int64_t layer, const float* x, float* y) const override {
    const int64_t width = in_.outputs(), queries = sizes_.heads * sizes_.query();
    const int64_t values = sizes_.heads * sizes_.value;
    cpu::Scratch scratch;
    float* rows = scratch.Take<float>(step.rows * width);
    float* q = scratch.Take<float>(step.rows * queries);
    float* outputs = scratch.Take<float>(step.rows * values);
    in_.Multiply(x, step.rows, rows);
    Queries(step, rows, q);
    ForRows(step, 20.0 * static_cast<double>(step.rows * queries),
            [&](int64_t r, int64_t position) {
              Prepare(position, rows + r * width + first_, q + r * queries);
            });
    // Keys are all written before queries are asked.
    for (const Segment& segment : step.segments) Write(segment, layer, rows, width);
    std::vector<std::pair<const Segment*, int64_t>> runs;
    double pairs = 0;
    for (const Segment& segment : step.segments) {
      for (int64_t first = 0; first < segment.count; first += kRows) {
        runs.emplace_back(&segment, first);
      }
      pairs += static_cast<double>(segment.count) *
               static_cast<double>(segment.state->position() + segment.count);
    }
    cpu::ParallelFor(
        static_cast<int64_t>(runs.size()) * sizes_.heads,
        4.0 * pairs * static_cast<double>(sizes_.heads * sizes_.cached()), [&](int64_t task) {
          const auto& [segment, first] = runs[static_cast<size_t>(task / sizes_.heads)];
          Read(*segment, layer, task % sizes_.heads, first, q, outputs);
        });
    out_.Multiply(outputs, step.rows, y);
  }

 private:
  // kv_proj.2 has, head by head, Dn rows that make keys and Dv that make values.
  void ReadHeads(WeightReader& weights) {
    const int64_t R = sizes_.rank, own = sizes_.content + sizes_.value;
    const Tensor both = weights.Take("kv_proj.2.weight", {sizes_.heads * own, R});
    if (!both.defined()) return;
    const auto pack = [&](const Tensor& matrix, std::vector<cpu::PackedMatrix>& to) {
      absl::StatusOr<cpu::PackedMatrix> packed = cpu::PackedMatrix::Pack({matrix});
      if (!packed.ok()) return weights.Fail(packed.status());
      to.push_back(*std::move(packed));
    };
    const absl::StatusOr<Tensor> turned = AllocateHost(both.dtype(), {R, sizes_.content});
    if (!turned.ok()) return weights.Fail(turned.status());
    const size_t size = SizeOf(both.dtype());
    for (int64_t h = 0; h < sizes_.heads; ++h) {
      const Tensor keys = both.Slice(0, h * own, sizes_.content);
      for (int64_t i = 0; i < sizes_.content * R; ++i) {
        const int64_t to = i % R * sizes_.content + i / R;
        std::memcpy(turned->data<char>() + static_cast<size_t>(to) * size,
                    keys.data<char>() + static_cast<size_t>(i) * size, size);
      }
      pack(*turned, to_latent_);
      pack(both.Slice(0, h * own + sizes_.content, sizes_.value), from_latent_);
    }
  }

  // q = [H, Dn + Dr] of each projected row.
  void Queries(const Step& step, const float* rows, float* q) const {
    const int64_t width = in_.outputs();
    cpu::Scratch scratch;
    float* low = query_norm_.empty() ? q : scratch.Take<float>(step.rows * first_);
    for (int64_t r = 0; r < step.rows; ++r) {
      std::copy_n(rows + r * width, first_, low + r * first_);
      if (query_norm_.empty()) continue;
      RmsNormRow(low + r * first_, first_, kLatentNormEps, query_norm_, low + r * first_);
    }
    if (!query_norm_.empty()) query_up_.Multiply(low, step.rows, q);
  }

  // Norm, positions and scale of one row: what is cached, [R + Dr], and queries.
  void Prepare(int64_t position, float* cached, float* q) const {
    RmsNormRow(cached, sizes_.rank, kLatentNormEps, latent_norm_, cached);
    cpu::Scratch scratch;
    float* cos = scratch.Take<float>(sizes_.rope / 2);
    float* sin = scratch.Take<float>(sizes_.rope / 2);
    cpu::RopeRow(frequencies_, static_cast<double>(position), cos, sin);
    cpu::RotateRow(RopePairs::kHalf, cos, sin, sizes_.rope, cached + sizes_.rank);
    for (int64_t h = 0; h < sizes_.heads; ++h) {
      float* rope = q + h * sizes_.query() + sizes_.content;
      cpu::RotateRow(RopePairs::kHalf, cos, sin, sizes_.rope, rope);
    }
    cpu::ScaleRow(q, 1 / std::sqrt(static_cast<float>(sizes_.query())),
                  sizes_.heads * sizes_.query());
  }

  void Write(const Segment& segment, int64_t layer, const float* rows, int64_t width) const {
    const std::vector<Tensor>& pages = segment.state->layer(layer).pages;
    for (int64_t t = 0; t < segment.count; ++t) {
      const int64_t position = segment.state->position() + t;
      const float* key = rows + (segment.row + t) * width + first_;
      cpu::WritePage(page_, position, key, key,
                     pages[static_cast<size_t>(position / cpu::kPage)].data<float>());
    }
  }

  // One head's outputs of at most kRows rows.
  void Read(const Segment& segment, int64_t layer, int64_t head, int64_t first, const float* q,
            float* outputs) const {
    const int64_t R = sizes_.rank, Dn = sizes_.content, cached = sizes_.cached();
    const int64_t count = std::min(kRows, segment.count - first);
    const int64_t queries = sizes_.heads * sizes_.query();
    const float* own = q + (segment.row + first) * queries + head * sizes_.query();
    cpu::Scratch scratch;
    float* content = scratch.Take<float>(count * Dn);
    float* asked = scratch.Take<float>(count * cached);
    float* found = scratch.Take<float>(count * R);
    for (int64_t t = 0; t < count; ++t) std::copy_n(own + t * queries, Dn, content + t * Dn);
    const auto h = static_cast<size_t>(head);
    to_latent_[h].Multiply(content, count, asked, cached);
    const std::vector<Tensor>& pages = segment.state->layer(layer).pages;
    const float** views = scratch.Take<const float*>(static_cast<int64_t>(pages.size()));
    for (size_t i = 0; i < pages.size(); ++i) {
      views[i] = pages[i].defined() ? pages[i].data<float>() : nullptr;
    }
    for (int64_t t = 0; t < count; ++t) {
      std::copy_n(own + t * queries + Dn, sizes_.rope, asked + t * cached + R);
      cpu::ReplayQuery(page_, segment.state->position() + first + t,
                       sizes_.window == 0 ? -1 : sizes_.window - 1, {views, pages.size()},
                       asked + t * cached, found + t * R);
    }
    const int64_t values = sizes_.heads * sizes_.value;
    from_latent_[h].Multiply(
        found, count, outputs + (segment.row + first) * values + head * sizes_.value, values);
  }

  const LatentSizes sizes_;
  const cpu::ReplayHeads page_;
  const std::vector<double> frequencies_;
  int64_t first_ = 0;  // Of a projected row: what makes queries.
  cpu::PackedMatrix in_, query_up_, out_;
  Floats query_norm_, latent_norm_;
  std::vector<cpu::PackedMatrix> to_latent_;    // By head, W_k^T [R,Dn].
  std::vector<cpu::PackedMatrix> from_latent_;  // By head, W_v [Dv,R].
};

}  // namespace

MixerOr MakeLatentAttention(const MixerSource& source) {
  ConfigReader config(source.config.json, "config.json");
  const LatentSizes sizes = ReadSizes(source.config, config);
  if (!config.status().ok()) return config.status();
  WeightReader weights(source.checkpoint, source.prefix);
  auto mixer = std::make_unique<LatentAttention>(sizes, weights);
  if (!weights.status().ok()) return weights.status();
  return mixer;
}

}  // namespace attnd::models
