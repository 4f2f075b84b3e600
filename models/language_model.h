// A language model: embedding, blocks of a mixer and an MLP, head. Weights come from a folder with
// config.json and model.safetensors under the names of flash-linear-attention's models
// (fla-org/flash-linear-attention, fla/models, commit bc3b101d).
//
//   x = embedding[token];  x += mixer(RMSNorm(x));  x += mlp(RMSNorm(x));  logits = W_head
//   RMSNorm(x)
//
// Classes of mixers alone (mamba2) have no MLP.
#ifndef ATTND_MODELS_LANGUAGE_MODEL_H_
#define ATTND_MODELS_LANGUAGE_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/decode/step_engine.h"
#include "kernels/primitives/primitives.h"
#include "models/checkpoint.h"
#include "models/layers/gated_mlp.h"
#include "models/mixers/mixer.h"
#include "models/model_config.h"
#include "models/sequence_state.h"

namespace attnd::models {

// Tokens that go into one sequence of a step.
struct Feed {
  SequenceState* state;
  absl::Span<const int32_t> tokens;  // At least one.
  // Where logits go: [vocab] of the last token, or [tokens, vocab] with `all_logits`; null:
  // nowhere.
  float* logits = nullptr;
  bool all_logits = false;
};

// Immutable. Float32 inside, weights in their own type. Logits and states are a function of the
// weights and of a sequence's tokens: not of how they were cut into steps, nor of what else a step
// computes, bit for bit.
class LanguageModel {
 public:
  // To run on `device`, a CUDA backend; null: on this machine's CPU. INVALID_ARGUMENT naming the
  // key or tensor that is missing, wrong or unknown; NOT_FOUND naming a missing file.
  static absl::StatusOr<std::unique_ptr<const LanguageModel>> Load(
      const std::string& folder, std::shared_ptr<Backend> device = nullptr);

  const ModelConfig& config() const { return config_; }
  // Of the weights: two models with equal hashes and configs are the same model.
  const std::string& weights_hash() const { return hash_; }
  // A new sequence.
  absl::StatusOr<SequenceState> NewState() const {
    return SequenceState::Create(layouts_, device_);
  }
  // SequenceState::Load and FromLayers for states of this model.
  absl::StatusOr<SequenceState> LoadState(absl::string_view bytes) const {
    return SequenceState::Load(layouts_, bytes, device_);
  }
  absl::StatusOr<SequenceState> StateOf(uint64_t position, std::vector<LayerState> layers) const {
    return SequenceState::FromLayers(layouts_, position, std::move(layers), device_);
  }
  absl::Span<const LayerLayout> layouts() const { return layouts_; }
  // What computes: states of the one are none of the other.
  Device device() const { return device_ == nullptr ? Device::kCpu : device_->device(); }

  // Reads the tokens of all feeds (distinct states) and advances their states. INVALID_ARGUMENT for
  // a token outside of the vocabulary, RESOURCE_EXHAUSTED without memory: then no state has moved.
  // One thread at a time.
  absl::Status Run(absl::Span<const Feed> feeds) const;

 private:
  struct Block {
    Floats mixer_norm, mlp_norm;
    std::unique_ptr<const Mixer> mixer;
    std::unique_ptr<const GatedMlp> mlp;  // Or null.
  };

  LanguageModel() = default;  // NOLINT(bugprone-exception-escape): as ModelConfig.
  absl::Status Read(Checkpoint& checkpoint);
  absl::Status MoveTo(std::shared_ptr<Backend> device);
  void RunOnCpu(const Step& step, absl::Span<const Feed> feeds) const;
  void RunLayers(const Step& step, absl::Span<const Feed> feeds) const;
  absl::Status RunOnDevice(const Step& step, absl::Span<const Feed> feeds) const;
  void Embed(const Step& step, absl::Span<const Feed> feeds, float* x) const;
  void Head(const Step& step, absl::Span<const Feed> feeds, const float* x) const;

  ModelConfig config_;
  std::string hash_;
  Tensor embedding_;  // [vocab, hidden], in the checkpoint's type.
  std::vector<Block> blocks_;
  std::vector<LayerLayout> layouts_;
  Floats norm_;
  cpu::PackedMatrix head_;
  std::shared_ptr<Backend> device_;
  std::unique_ptr<decode::StepEngine> engine_;  // Null on the CPU.
};

}  // namespace attnd::models

#endif  // ATTND_MODELS_LANGUAGE_MODEL_H_
