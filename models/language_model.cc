#include "models/language_model.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"
#include "models/config_reader.h"
#include "models/files.h"
#include "models/layers/rows.h"

namespace attnd::models {

absl::StatusOr<std::unique_ptr<const LanguageModel>> LanguageModel::Load(
    const std::string& folder, std::shared_ptr<Backend> device) {
  absl::StatusOr<std::string> text = ReadTextFile(folder + "/config.json");
  if (!text.ok()) return text.status();
  absl::StatusOr<ModelConfig> config = ParseModelConfig(*text);
  if (!config.ok()) return config.status();
  absl::StatusOr<Checkpoint> checkpoint = Checkpoint::Open(folder);
  if (!checkpoint.ok()) return checkpoint.status();
  std::unique_ptr<LanguageModel> model(new LanguageModel());
  model->config_ = *std::move(config);
  model->hash_ = checkpoint->hash();
  if (absl::Status s = model->Read(*checkpoint); !s.ok()) return s;
  if (absl::Status s = checkpoint->CheckAllTaken(); !s.ok()) return s;
  if (device != nullptr) {
    if (absl::Status s = model->MoveTo(std::move(device)); !s.ok()) return s;
  }
  return model;
}

absl::Status LanguageModel::MoveTo(std::shared_ptr<Backend> device) {
  decode::StepProgram program;
  program.hidden = config_.hidden_size;
  program.vocab = config_.vocab_size;
  program.inner = config_.intermediate_size;
  program.norm_eps = config_.norm_eps;
  program.embedding = embedding_;
  program.norm = norm_;
  program.head = &head_;
  for (const Block& block : blocks_) {
    const decode::MixerProgram mixer = block.mixer->program();
    if (std::holds_alternative<std::monostate>(mixer)) {
      return absl::UnimplementedError(absl::StrCat("config.json: model_type: given \"",
                                                   config_.model_type,
                                                   "\", which runs on the CPU alone"));
    }
    const GatedMlp* mlp = block.mlp.get();
    program.blocks.push_back({block.mixer_norm, block.mlp_norm, mixer,
                              mlp == nullptr ? nullptr : &mlp->gate_up(),
                              mlp == nullptr ? nullptr : &mlp->down()});
  }
  absl::StatusOr<std::unique_ptr<decode::StepEngine>> engine =
      decode::CreateCudaStepEngine(*device, program);
  if (!engine.ok()) return engine.status();
  engine_ = *std::move(engine);
  device_ = std::move(device);
  layouts_.clear();
  for (const decode::DeviceLayout& layout : engine_->layouts()) {
    layouts_.push_back({layout.fixed, layout.page, layout.window});
  }
  return absl::OkStatus();
}

absl::Status LanguageModel::Read(Checkpoint& checkpoint) {
  const int64_t hidden = config_.hidden_size;
  const ModelFrame& frame = config_.frame;
  absl::StatusOr<Tensor> embedding =
      checkpoint.Take(frame.root + "embeddings.weight", {config_.vocab_size, hidden});
  if (!embedding.ok()) return embedding.status();
  embedding_ = *std::move(embedding);
  Tensor bounds;
  ConfigReader reader(config_.json, "config.json");
  const bool bounded = config_.model_type == "hgrn2" && reader.Flag("use_lower_bound", true);
  if (!reader.status().ok()) return reader.status();
  if (bounded) {
    absl::StatusOr<Tensor> taken = checkpoint.Take("model.lower_bounds", {config_.layers, hidden});
    if (!taken.ok()) return taken.status();
    bounds = *std::move(taken);
  }
  for (int64_t i = 0; i < config_.layers; ++i) {
    const std::string prefix = absl::StrCat(frame.root, "layers.", i, ".");
    Block block;
    WeightReader weights(checkpoint, prefix);
    block.mixer_norm = weights.Vector(frame.mixer_norm + ".weight", {hidden});
    WeightReader mlp(checkpoint, prefix + "mlp.");
    if (frame.mlp) {
      block.mlp_norm = weights.Vector("mlp_norm.weight", {hidden});
      block.mlp = std::make_unique<const GatedMlp>(mlp, hidden, config_.intermediate_size);
    }
    if (!weights.status().ok()) return weights.status();
    if (!mlp.status().ok()) return mlp.status();
    MixerOr mixer = MakeMixer({config_, checkpoint, prefix + frame.mixer + ".", i, bounds});
    if (!mixer.ok()) return mixer.status();
    block.mixer = *std::move(mixer);
    layouts_.push_back(block.mixer->layout());
    blocks_.push_back(std::move(block));
  }
  WeightReader weights(checkpoint, "");
  norm_ = weights.Vector(absl::StrCat(frame.root, frame.final_norm, ".weight"), {hidden});
  if (!config_.tied || checkpoint.has("lm_head.weight")) {
    head_ = weights.Matrix("lm_head", config_.vocab_size, hidden);
  } else {
    absl::StatusOr<cpu::PackedMatrix> packed = cpu::PackedMatrix::Pack({embedding_});
    if (!packed.ok()) return packed.status();
    head_ = *std::move(packed);
  }
  return weights.status();
}

void LanguageModel::Embed(const Step& step, absl::Span<const Feed> feeds, float* x) const {
  const int64_t hidden = config_.hidden_size;
  const auto size = static_cast<int64_t>(SizeOf(embedding_.dtype()));
  for (size_t f = 0; f < feeds.size(); ++f) {
    for (int64_t t = 0; t < step.segments[f].count; ++t) {
      const int64_t token = feeds[f].tokens[static_cast<size_t>(t)];
      cpu::LoadRow(embedding_.data<char>() + token * hidden * size, embedding_.dtype(),
                   x + (step.segments[f].row + t) * hidden, hidden);
    }
  }
}

void LanguageModel::Head(const Step& step, absl::Span<const Feed> feeds, const float* x) const {
  const int64_t hidden = config_.hidden_size, vocab = config_.vocab_size;
  // Rows that are asked for, normed side by side.
  struct Asked {
    int64_t row;
    float* logits;
  };
  std::vector<Asked> asked;
  for (size_t f = 0; f < feeds.size(); ++f) {
    const Segment& segment = step.segments[f];
    if (feeds[f].logits == nullptr) continue;
    for (int64_t t = feeds[f].all_logits ? 0 : segment.count - 1; t < segment.count; ++t) {
      const int64_t at = feeds[f].all_logits ? t : 0;
      asked.push_back({segment.row + t, feeds[f].logits + at * vocab});
    }
  }
  const auto count = static_cast<int64_t>(asked.size());
  cpu::Scratch scratch;
  float* normed = scratch.Take<float>(count * hidden);
  float* logits = scratch.Take<float>(count * vocab);
  for (int64_t i = 0; i < count; ++i) {
    RmsNormRow(x + asked[static_cast<size_t>(i)].row * hidden, hidden, config_.norm_eps, norm_,
               normed + i * hidden);
  }
  head_.Multiply(normed, count, logits);
  for (int64_t i = 0; i < count; ++i) {
    std::copy_n(logits + i * vocab, vocab, asked[static_cast<size_t>(i)].logits);
  }
}

absl::Status LanguageModel::Run(absl::Span<const Feed> feeds) const {
  std::vector<Segment> segments;
  Step step;
  for (const Feed& feed : feeds) {
    for (const int32_t token : feed.tokens) {
      if (token < 0 || token >= config_.vocab_size) {
        return absl::InvalidArgumentError(
            absl::StrCat("tokens: given ", token, ", expected [0, ", config_.vocab_size, ")"));
      }
    }
    const auto count = static_cast<int64_t>(feed.tokens.size());
    if (absl::Status s = feed.state->Reserve(count); !s.ok()) return s;
    segments.push_back({feed.state, step.rows, count});
    step.rows += count;
  }
  step.segments = segments;
  if (engine_ == nullptr) {
    RunOnCpu(step, feeds);
  } else if (absl::Status s = RunOnDevice(step, feeds); !s.ok()) {
    return s;
  }
  for (const Segment& segment : segments) segment.state->Advance(segment.count);
  return absl::OkStatus();
}

absl::Status LanguageModel::RunOnDevice(const Step& step, absl::Span<const Feed> feeds) const {
  std::vector<decode::StepSequence> sequences;
  sequences.reserve(feeds.size());
  for (size_t f = 0; f < feeds.size(); ++f) {
    const SequenceState& state = *step.segments[f].state;
    sequences.push_back({state.position(), feeds[f].tokens, state.all_layers(), feeds[f].logits,
                         feeds[f].all_logits});
  }
  return engine_->Run(sequences);
}

// Of a batch each thread takes some sequences through all layers: it waits for the others once a
// step, not once a phase of a layer. What cannot be shared out so is spread within the phases.
void LanguageModel::RunOnCpu(const Step& step, absl::Span<const Feed> feeds) const {
  const std::vector<StepGroup> groups = Split(step, cpu::Threads());
  if (groups.size() < static_cast<size_t>(cpu::Threads())) return RunLayers(step, feeds);
  constexpr double kAlways = std::numeric_limits<double>::infinity();
  cpu::ParallelFor(static_cast<int64_t>(groups.size()), kAlways, [&](int64_t i) {
    const cpu::InlineScope scope;
    const StepGroup& group = groups[static_cast<size_t>(i)];
    RunLayers({group.segments, group.rows}, feeds.subspan(group.first, group.segments.size()));
  });
}

void LanguageModel::RunLayers(const Step& step, absl::Span<const Feed> feeds) const {
  const int64_t hidden = config_.hidden_size;
  cpu::Scratch scratch;
  float* x = scratch.Take<float>(step.rows * hidden);
  float* in = scratch.Take<float>(step.rows * hidden);
  float* out = scratch.Take<float>(step.rows * hidden);
  Embed(step, feeds, x);
  const double work = 4.0 * static_cast<double>(step.rows * hidden);
  const auto norm = [&](const Floats& weight) {
    ForRows(step, work, [&](int64_t r, int64_t) {
      RmsNormRow(x + r * hidden, hidden, config_.norm_eps, weight, in + r * hidden);
    });
  };
  for (size_t i = 0; i < blocks_.size(); ++i) {
    norm(blocks_[i].mixer_norm);
    blocks_[i].mixer->Run(step, static_cast<int64_t>(i), in, out);
    cpu::AddRow(x, out, x, step.rows * hidden);
    if (blocks_[i].mlp == nullptr) continue;
    norm(blocks_[i].mlp_norm);
    blocks_[i].mlp->Run(in, step.rows, out);
    cpu::AddRow(x, out, x, step.rows * hidden);
  }
  Head(step, feeds, x);
}

}  // namespace attnd::models
