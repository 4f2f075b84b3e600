// A token mixer: what stands between a block's two norms, over the sequences of a step.
#ifndef ATTND_MODELS_MIXERS_MIXER_H_
#define ATTND_MODELS_MIXERS_MIXER_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/decode/step_program.h"
#include "models/checkpoint.h"
#include "models/model_config.h"
#include "models/step.h"

namespace attnd::models {

// Immutable; one instance serves every sequence, from one thread at a time.
class Mixer {
 public:
  virtual ~Mixer() = default;
  virtual LayerLayout layout() const = 0;
  // y = mixer(x) for rows x, y [step.rows, hidden_size]; reads and advances layer `layer` of every
  // sequence's state, but not its position. A row's bits depend on its sequence alone.
  virtual void Run(const Step& step, int64_t layer, const float* x, float* y) const = 0;
  // What a step engine of another device runs in its place; views on this mixer.
  virtual decode::MixerProgram program() const { return {}; }
};

// What a mixer is built from: weights under `prefix`, which ends in a dot.
struct MixerSource {
  const ModelConfig& config;
  Checkpoint& checkpoint;
  std::string prefix;
  int64_t layer;
  // Per-layer lower bounds of forget gates (hgrn2), [layers, hidden]; undefined: the model has
  // none.
  Tensor lower_bounds;
};

using MixerOr = absl::StatusOr<std::unique_ptr<const Mixer>>;

// The mixer of the config's model type for this layer: softmax where `attn` lists it.
// INVALID_ARGUMENT naming the key or the tensor that is wrong, or the model types that are known.
MixerOr MakeMixer(const MixerSource& source);

// One for each kind, by file.
MixerOr MakeSoftmaxAttention(const MixerSource& source, const AttentionSpec& spec);
MixerOr MakeLinearAttention(const MixerSource& source);
MixerOr MakeRetention(const MixerSource& source);
MixerOr MakeGla(const MixerSource& source);
MixerOr MakeHgrn2(const MixerSource& source);
MixerOr MakeDeltaNet(const MixerSource& source);
MixerOr MakeGatedDeltaNet(const MixerSource& source);
MixerOr MakeKda(const MixerSource& source);
MixerOr MakeLatentAttention(const MixerSource& source);
MixerOr MakeMamba2(const MixerSource& source);
MixerOr MakeBased(const MixerSource& source);
MixerOr MakeLightningAttention(const MixerSource& source);

}  // namespace attnd::models

#endif  // ATTND_MODELS_MIXERS_MIXER_H_
