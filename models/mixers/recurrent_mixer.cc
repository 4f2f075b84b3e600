#include "models/mixers/recurrent_mixer.h"

#include <algorithm>
#include <cmath>

#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"
#include "models/layers/rows.h"

namespace attnd::models {

using decode::RecurrentProgram;

RecurrentBuilder::RecurrentBuilder(const MixerSource& source)
    : weights(source.checkpoint, source.prefix), hidden_(source.config.hidden_size) {
  program.norm_eps = source.config.norm_eps;
}

RowSpan RecurrentBuilder::AddPart(const std::string& name, int64_t size) {
  const RowSpan part{width_, size};
  parts_.emplace_back(name, size);
  width_ += size;
  return part;
}

RowSpan RecurrentBuilder::AddRoom(int64_t size) {
  room_ += size;
  return RowSpan{width_ + room_ - size, size};
}

void RecurrentBuilder::AddGatedNorm(ConfigReader& config, const std::string& with_gate,
                                    const std::string& without) {
  const bool gated = config.Flag("use_output_gate", true);
  const bool affine = config.Flag("elementwise_affine", true);
  const bool fused = config.Flag("fuse_norm", true);
  if (!config.status().ok()) return;
  program.norm_group = program.value_size;
  if (affine) {
    program.norm = weights.Vector(gated && fused ? with_gate : without, {program.value_size});
  }
  if (gated) {
    program.gate = AddPart("g_proj", program.heads * program.value_size);
    program.gate_kind = RecurrentProgram::Gate::kSilu;
  }
}

void RecurrentBuilder::AddStreams(const std::string& q, const std::string& k,
                                  const std::string& v) {
  program.q = AddPart(q, program.query_heads * program.key_size);
  program.k = AddPart(k, program.key_heads * program.key_size);
  program.v = AddPart(v, program.value_heads * program.value_size);
}

void RecurrentBuilder::AddConvolutions(const std::string& q, const std::string& k,
                                       const std::string& v, int64_t taps, bool bias, bool silu_qk,
                                       bool silu_v) {
  AddConvolution(q, program.q, taps, bias, silu_qk);
  AddConvolution(k, program.k, taps, bias, silu_qk);
  AddConvolution(v, program.v, taps, bias, silu_v);
}

void RecurrentBuilder::AddConvolution(const std::string& name, RowSpan at, int64_t taps, bool bias,
                                      bool silu) {
  decode::RowConvolution convolution{at, taps, silu};
  const Floats by_channel = weights.Vector(name + ".weight", {at.size, 1, taps});
  if (bias) convolution.bias = weights.Vector(name + ".bias", {at.size});
  convolution.weight.resize(by_channel.size());
  for (size_t i = 0; i < by_channel.size(); ++i) {
    const auto channel = static_cast<int64_t>(i) / taps, tap = static_cast<int64_t>(i) % taps;
    convolution.weight[static_cast<size_t>(tap * at.size + channel)] = by_channel[i];
  }
  program.convolutions.push_back(std::move(convolution));
}

void RecurrentBuilder::AddScale() {
  AddOp({.kind = RowOpKind::kScale,
         .at = program.q,
         .a = 1 / std::sqrt(static_cast<double>(program.key_size))});
}

void RecurrentBuilder::AddStrength(double strength) {
  AddOp({.kind = RowOpKind::kMap, .at = program.beta, .map = FeatureMap::kSigmoid});
  if (strength != 1) AddOp({.kind = RowOpKind::kScale, .at = program.beta, .a = strength});
}

MixerOr RecurrentBuilder::Finish(const std::string& projection, bool bias) {
  const int64_t gates = program.decay == Decay::kVector ? program.key_size : 1;
  program.row_size = width_ + room_;
  program.in = weights.Stack(parts_, hidden_);
  program.out = weights.Matrix(projection, hidden_, program.heads * program.value_size);
  if (bias) {
    program.in_bias = weights.Vector(parts_.front().first + ".bias", {width_});
    program.out_bias = weights.Vector(projection + ".bias", {hidden_});
  }
  if (!weights.status().ok()) return weights.status();
  if (program.decay != Decay::kNone && program.g.size != program.heads * gates) {
    return absl::InternalError("a mixer with decay has no gates");
  }
  return std::make_unique<const RecurrentMixer>(std::move(program));
}

RecurrentMixer::RecurrentMixer(decode::RecurrentProgram program) : program_(std::move(program)) {
  shape_.key_size = program_.key_size;
  shape_.value_size = program_.value_size;
  shape_.decay = program_.decay;
  shape_.delta = program_.delta;
  shape_.normalise = program_.normalise;
  for (const decode::RowConvolution& one : program_.convolutions) convolutions_.emplace_back(one);
}

LayerLayout RecurrentMixer::layout() const {
  LayerLayout layout;
  layout.fixed = program_.heads * cpu::ReplayLayout(shape_).size;
  for (const ShortConvolution& convolution : convolutions_) {
    layout.fixed += convolution.state_size();
  }
  return layout;
}

void RecurrentMixer::Run(const Step& step, int64_t layer, const float* x, float* y) const {
  const int64_t heads = program_.heads, stride = program_.row_size;
  const int64_t width = heads * program_.value_size;
  cpu::Scratch scratch;
  float* rows = scratch.Take<float>(step.rows * stride);
  // Outputs of a row, then its heads' normalisers.
  float* outputs = scratch.Take<float>(step.rows * width);
  float* dots = scratch.Take<float>(step.rows * heads);

  const auto add = [&](const Floats& bias, float* to, int64_t apart) {
    for (int64_t r = 0; !bias.empty() && r < step.rows; ++r) {
      cpu::AddRow(to + r * apart, bias.data(), to + r * apart, static_cast<int64_t>(bias.size()));
    }
  };
  program_.in.Multiply(x, step.rows, rows, stride);
  add(program_.in_bias, rows, stride);
  int64_t offset = heads * cpu::ReplayLayout(shape_).size;
  for (const ShortConvolution& convolution : convolutions_) {
    convolution.Run(step, layer, offset, rows, stride);
    offset += convolution.state_size();
  }
  ForRows(step, 30.0 * static_cast<double>(step.rows * stride), [&](int64_t r, int64_t position) {
    decode::RunRowOps(program_.ops, position, rows + r * stride);
  });
  Recur(step, layer, rows, outputs, dots);
  ForRows(step, 10.0 * static_cast<double>(step.rows * width), [&](int64_t r, int64_t) {
    Finish(rows + r * stride, dots + r * heads, outputs + r * width);
  });
  program_.out.Multiply(outputs, step.rows, y);
  add(program_.out_bias, y, program_.out.outputs());
}

void RecurrentMixer::Recur(const Step& step, int64_t layer, const float* rows, float* outputs,
                           float* dots) const {
  const int64_t heads = program_.heads, K = program_.key_size, V = program_.value_size;
  const int64_t stride = program_.row_size;
  const int64_t gates = program_.decay == Decay::kVector ? K : 1;
  const int64_t size = cpu::ReplayLayout(shape_).size;
  const double work = 8.0 * static_cast<double>(step.rows * heads * K * V);
  const auto tasks = static_cast<int64_t>(step.segments.size()) * heads;
  cpu::ParallelFor(tasks, work, [&](int64_t task) {
    const Segment& segment = step.segments[static_cast<size_t>(task / heads)];
    const int64_t head = task % heads;
    const auto own = [&](int64_t count) { return head / (heads / count); };
    const float* first = rows + segment.row * stride;
    cpu::ReplayRows r;
    r.count = segment.count;
    r.q = first + program_.q.offset + own(program_.query_heads) * K;
    r.k = first + program_.k.offset + own(program_.key_heads) * K;
    r.v = first + program_.v.offset + own(program_.value_heads) * V;
    r.q_stride = r.k_stride = r.v_stride = r.g_stride = r.beta_stride = stride;
    if (shape_.decay != Decay::kNone) r.g = first + program_.g.offset + head * gates;
    if (shape_.delta) r.beta = first + program_.beta.offset + head;
    r.y = outputs + (segment.row * heads + head) * V;
    r.y_stride = heads * V;
    r.dots = dots + segment.row * heads + head;
    r.dots_stride = heads;
    const auto state_of = [&](int64_t one) {
      const Segment& its = step.segments[static_cast<size_t>(one / heads)];
      return its.state->layer(layer).fixed.data<float>() + one % heads * size;
    };
    if (segment.count == 1 && task + 1 < tasks) r.next_state = state_of(task + 1);
    float* state = state_of(task);
    cpu::Replay(shape_, segment.state->position(), r, state);
  });
}

void RecurrentMixer::Finish(const float* row, const float* dots, float* y) const {
  const int64_t V = program_.value_size;
  for (int64_t h = 0; program_.normalise && h < program_.heads; ++h) {
    cpu::ScaleRow(y + h * V, 1.0f / (dots[h] + static_cast<float>(program_.dots_eps)), V);
  }
  if (!program_.skip.empty()) {
    cpu::MulAddRow(program_.skip.data(), row + program_.skipped.offset, y, program_.heads * V);
  }
  if (program_.gate_first) ApplyGate(row, y);
  if (program_.norm_group > 0) Normalise(y);
  if (!program_.gate_first) ApplyGate(row, y);
}

void RecurrentMixer::Normalise(float* y) const {
  const int64_t width = program_.heads * program_.value_size, group = program_.norm_group;
  const absl::Span<const float> all = program_.norm;
  for (int64_t at = 0; at < width; at += group) {
    const bool own = static_cast<int64_t>(all.size()) > group;
    RmsNormRow(y + at, group, program_.norm_eps,
               own ? all.subspan(static_cast<size_t>(at), static_cast<size_t>(group)) : all,
               y + at);
  }
}

void RecurrentMixer::ApplyGate(const float* row, float* y) const {
  if (program_.gate_kind == RecurrentProgram::Gate::kNone) return;
  const int64_t width = program_.heads * program_.value_size;
  cpu::Scratch scratch;
  float* gate = scratch.Take<float>(width);
  std::copy_n(row + program_.gate.offset, width, gate);
  if (program_.gate_kind == RecurrentProgram::Gate::kSilu) {
    cpu::SiluRow(gate, width);
  } else {
    cpu::SigmoidRow(gate, width);
  }
  cpu::MulRow(y, gate, y, width);
}

}  // namespace attnd::models
