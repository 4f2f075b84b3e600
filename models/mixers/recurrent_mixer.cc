#include "models/mixers/recurrent_mixer.h"

#include <algorithm>

#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"
#include "models/layers/rows.h"

namespace attnd::models {

RecurrentMixer::Part RecurrentMixer::AddPart(const std::string& name, int64_t size) {
  const Part part{width_, size};
  parts_.emplace_back(name, size);
  width_ += size;
  return part;
}

RecurrentMixer::Part RecurrentMixer::AddRoom(int64_t size) {
  room_ += size;
  return Part{width_ + room_ - size, size};
}

absl::StatusOr<RecurrentMixer::Output> RecurrentMixer::AddGatedNorm(ConfigReader& config,
                                                                    const std::string& with_gate,
                                                                    const std::string& without) {
  const bool gated = config.Flag("use_output_gate", true);
  const bool affine = config.Flag("elementwise_affine", true);
  const bool fused = config.Flag("fuse_norm", true);
  if (!config.status().ok()) return config.status();
  Output output;
  if (affine) {
    output.norm = weights_.Vector(gated && fused ? with_gate : without, {sizes_.value_size});
  }
  if (gated) {
    gate_ = AddPart("g_proj", sizes_.heads * sizes_.value_size);
    output.gate = Output::Gate::kSilu;
  }
  return output;
}

void RecurrentMixer::AddStreams(const std::string& q, const std::string& k, const std::string& v) {
  q_ = AddPart(q, sizes_.query_heads * sizes_.key_size);
  k_ = AddPart(k, sizes_.key_heads * sizes_.key_size);
  v_ = AddPart(v, sizes_.value_heads * sizes_.value_size);
}

void RecurrentMixer::AddConvolutions(const std::string& q, const std::string& k,
                                     const std::string& v, int64_t taps, bool bias, bool silu_qk,
                                     bool silu_v) {
  AddConvolution(q, q_, taps, bias, silu_qk);
  AddConvolution(k, k_, taps, bias, silu_qk);
  AddConvolution(v, v_, taps, bias, silu_v);
}

void RecurrentMixer::AddConvolution(const std::string& name, Part part, int64_t taps, bool bias,
                                    bool silu) {
  convolutions_.emplace_back(ShortConvolution(weights_, name, part.size, taps, bias, silu), part);
}

absl::Status RecurrentMixer::Finish(Output output, const std::string& projection, bool bias) {
  output_ = std::move(output);
  shape_.key_size = sizes_.key_size;
  shape_.value_size = sizes_.value_size;
  in_ = weights_.Stack(parts_, sizes_.hidden);
  out_ = weights_.Matrix(projection, sizes_.hidden, sizes_.heads * sizes_.value_size);
  if (bias) {
    in_bias_ = weights_.Vector(parts_.front().first + ".bias", {width_});
    out_bias_ = weights_.Vector(projection + ".bias", {sizes_.hidden});
  }
  return weights_.status();
}

LayerLayout RecurrentMixer::layout() const {
  LayerLayout layout;
  layout.fixed = sizes_.heads * cpu::ReplayLayout(shape_).size;
  for (const auto& [convolution, part] : convolutions_) layout.fixed += convolution.state_size();
  return layout;
}

void RecurrentMixer::Run(const Step& step, int64_t layer, const float* x, float* y) const {
  cpu::Scratch scratch;
  float* rows = scratch.Take<float>(step.rows * stride());
  float* g = scratch.Take<float>(step.rows * sizes_.heads * gate_width());
  float* beta = scratch.Take<float>(step.rows * sizes_.heads);
  // Outputs of a row, then its heads' normalisers.
  const int64_t width = sizes_.heads * sizes_.value_size;
  float* outputs = scratch.Take<float>(step.rows * width);
  float* dots = scratch.Take<float>(step.rows * sizes_.heads);

  const auto add = [&](const Floats& bias, float* to, int64_t apart) {
    for (int64_t r = 0; !bias.empty() && r < step.rows; ++r) {
      cpu::AddRow(to + r * apart, bias.data(), to + r * apart, static_cast<int64_t>(bias.size()));
    }
  };
  in_.Multiply(x, step.rows, rows, stride());
  add(in_bias_, rows, stride());
  int64_t offset = sizes_.heads * cpu::ReplayLayout(shape_).size;
  for (const auto& [convolution, part] : convolutions_) {
    convolution.Run(step, layer, offset, rows + part.offset, stride());
    offset += convolution.state_size();
  }
  ForRows(step, 30.0 * static_cast<double>(step.rows * stride()), [&](int64_t r, int64_t position) {
    float* row = rows + r * stride();
    Features(position, x + r * sizes_.hidden, row);
    cpu::ScaleRow(row + q_.offset, static_cast<float>(scale_), q_.size);
    FillGates(x + r * sizes_.hidden, row,
              {g + r * sizes_.heads * gate_width(), beta + r * sizes_.heads});
  });
  Recur(step, layer, rows, g, beta, outputs, dots);
  ForRows(step, 10.0 * static_cast<double>(step.rows * width), [&](int64_t r, int64_t) {
    const float* row = rows + r * stride();
    float* own = outputs + r * width;
    if (shape_.normalise) Divide(dots + r * sizes_.heads, own);
    Skip(row, own);
    if (output_.gate_first) ApplyGate(row, own);
    Normalise(own);
    if (!output_.gate_first) ApplyGate(row, own);
  });
  out_.Multiply(outputs, step.rows, y);
  add(out_bias_, y, sizes_.hidden);
}

void RecurrentMixer::Recur(const Step& step, int64_t layer, const float* rows, const float* g,
                           const float* beta, float* outputs, float* dots) const {
  const int64_t heads = sizes_.heads, K = sizes_.key_size, V = sizes_.value_size;
  const int64_t size = cpu::ReplayLayout(shape_).size;
  const double work = 8.0 * static_cast<double>(step.rows * heads * K * V);
  const auto tasks = static_cast<int64_t>(step.segments.size()) * heads;
  cpu::ParallelFor(tasks, work, [&](int64_t task) {
    const Segment& segment = step.segments[static_cast<size_t>(task / heads)];
    const int64_t head = task % heads;
    const auto own = [&](int64_t count) { return head / (heads / count); };
    const float* first = rows + segment.row * stride();
    cpu::ReplayRows r;
    r.count = segment.count;
    r.q = first + q_.offset + own(sizes_.query_heads) * K;
    r.k = first + k_.offset + own(sizes_.key_heads) * K;
    r.v = first + v_.offset + own(sizes_.value_heads) * V;
    r.q_stride = r.k_stride = r.v_stride = stride();
    if (shape_.decay != Decay::kNone) r.g = g + (segment.row * heads + head) * gate_width();
    r.g_stride = heads * gate_width();
    if (shape_.delta) r.beta = beta + segment.row * heads + head;
    r.beta_stride = r.dots_stride = heads;
    r.y = outputs + (segment.row * heads + head) * V;
    r.y_stride = heads * V;
    r.dots = dots + segment.row * heads + head;
    float* state = segment.state->layer(layer).fixed.data<float>() + head * size;
    cpu::Replay(shape_, segment.state->position(), r, state);
  });
}

void RecurrentMixer::Divide(const float* dots, float* y) const {
  const int64_t V = sizes_.value_size;
  for (int64_t h = 0; h < sizes_.heads; ++h) {
    cpu::ScaleRow(y + h * V, 1.0f / (dots[h] + static_cast<float>(dots_eps_)), V);
  }
}

void RecurrentMixer::Normalise(float* y) const {
  const int64_t width = sizes_.heads * sizes_.value_size;
  const int64_t size = output_.group.value_or(sizes_.value_size);
  if (size == 0) return;
  const double eps = output_.eps > 0 ? output_.eps : eps_;
  const absl::Span<const float> all = output_.norm;
  for (int64_t at = 0; at < width; at += size) {
    const bool own = static_cast<int64_t>(all.size()) > size;
    RmsNormRow(y + at, size, eps,
               own ? all.subspan(static_cast<size_t>(at), static_cast<size_t>(size)) : all, y + at);
  }
}

void RecurrentMixer::ApplyGate(const float* row, float* y) const {
  if (output_.gate == Output::Gate::kNone) return;
  const int64_t width = sizes_.heads * sizes_.value_size;
  cpu::Scratch scratch;
  float* gate = scratch.Take<float>(width);
  std::copy_n(row + gate_.offset, width, gate);
  if (output_.gate == Output::Gate::kSilu) {
    cpu::SiluRow(gate, width);
  } else {
    cpu::SigmoidRow(gate, width);
  }
  cpu::MulRow(y, gate, y, width);
}

}  // namespace attnd::models
