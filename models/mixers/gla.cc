// model_type gla: a log decay per key channel from a low-rank projection, logsigmoid(x) / 16.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"
#include "models/config_reader.h"
#include "models/layers/rows.h"
#include "models/mixers/fla_sizes.h"
#include "models/mixers/recurrent_mixer.h"

namespace attnd::models {
namespace {

constexpr float kNormalizer = 16;
constexpr int64_t kRank = 16;

class Gla final : public RecurrentMixer {
 public:
  static MixerOr Make(const MixerSource& source) {
    std::unique_ptr<Gla> mixer(new Gla(source));
    ConfigReader config(source.config.json, "config.json");
    mixer->sizes_ = ReadFlaSizes(config, source.config, {0.5, 1.0, 4});
    config.Only("feature_map", nullptr);
    const bool conv = config.Flag("use_short_conv", false);
    const int64_t taps = config.Positive("conv_size", 4);
    mixer->clamp_ =
        static_cast<float>(config.Real("clamp_min", -std::numeric_limits<float>::max()));
    const RecurrentSizes& sizes = mixer->sizes_;
    mixer->shape_.decay = Decay::kVector;
    mixer->scale_ = 1 / std::sqrt(static_cast<double>(sizes.key_size));
    mixer->AddStreams("q_proj", "k_proj", "v_proj");
    mixer->low_rank_ = mixer->AddPart("gk_proj.0", kRank);
    const int64_t gates = sizes.key_heads * sizes.key_size;
    mixer->up_ = mixer->weights_.Matrix("gk_proj.1", gates, kRank);
    mixer->bias_ = mixer->weights_.Vector("gk_proj.1.bias", {gates});
    absl::StatusOr<Output> output =
        mixer->AddGatedNorm(config, "g_norm_swish_gate.weight", "g_norm.weight");
    if (!output.ok()) return output.status();
    if (conv) mixer->AddConvolutions("q_conv1d", "k_conv1d", "v_conv1d", taps, false, true, true);
    if (absl::Status s = mixer->Finish(*std::move(output)); !s.ok()) return s;
    return mixer;
  }

 private:
  using RecurrentMixer::RecurrentMixer;

  void FillGates(const float*, float* row, const Gates& gates) const override {
    const auto size = static_cast<int64_t>(bias_.size());
    cpu::Scratch scratch;
    float* own = scratch.Take<float>(size);
    up_.Multiply(row + low_rank_.offset, 1, own);
    cpu::AddRow(own, bias_.data(), own, size);
    LogSigmoidRow(own, size);
    for (int64_t i = 0; i < size; ++i) own[i] = std::max(own[i] / kNormalizer, clamp_);
    const int64_t group = sizes_.heads / sizes_.key_heads;
    for (int64_t h = 0; h < sizes_.heads; ++h) {
      std::copy_n(own + h / group * sizes_.key_size, sizes_.key_size,
                  gates.g + h * sizes_.key_size);
    }
  }

  Part low_rank_;
  cpu::PackedMatrix up_;
  Floats bias_;
  float clamp_ = 0;
};

}  // namespace

MixerOr MakeGla(const MixerSource& source) { return Gla::Make(source); }

}  // namespace attnd::models
