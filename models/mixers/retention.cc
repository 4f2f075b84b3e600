// model_type retnet: retention with rotary positions and a swish-gated output norm. The library's
// class reads use_short_conv and builds no convolutions: nor does this one.
#include <cmath>

#include "kernels/cores/rope.h"
#include "models/config_reader.h"
#include "models/layers/rows.h"
#include "models/mixers/fla_sizes.h"
#include "models/mixers/recurrent_mixer.h"

namespace attnd::models {
namespace {

class Retention final : public RecurrentMixer {
 public:
  static MixerOr Make(const MixerSource& source) {
    std::unique_ptr<Retention> mixer(new Retention(source));
    ConfigReader config(source.config.json, "config.json");
    mixer->sizes_ = ReadFlaSizes(config, source.config, {1.0, 2.0, 8});
    config.Only("feature_map", nullptr);
    const RecurrentSizes& sizes = mixer->sizes_;
    if (sizes.key_size % 2 != 0) config.Fail("expand_k", "an even head size, for rotary positions");
    mixer->shape_.decay = Decay::kScalar;
    mixer->scale_ = 1 / std::sqrt(static_cast<double>(sizes.key_size));
    mixer->frequencies_ = RopeFrequencies(RopePairs::kHalf, sizes.key_size, 10000);
    // Each head forgets at its own rate: 1 - 2^-(5 + h).
    for (int64_t h = 0; h < sizes.heads; ++h) {
      mixer->decays_.push_back(
          static_cast<float>(std::log1p(-std::exp2(-5.0 - static_cast<double>(h)))));
    }
    mixer->AddStreams("q_proj", "k_proj", "v_proj");
    absl::StatusOr<Output> output =
        mixer->AddGatedNorm(config, "g_norm_swish_gate.weight", "g_norm.weight");
    if (!output.ok()) return output.status();
    if (absl::Status s = mixer->Finish(*std::move(output)); !s.ok()) return s;
    return mixer;
  }

 private:
  using RecurrentMixer::RecurrentMixer;

  void Features(int64_t position, const float*, float* row) const override {
    RotateHeads(frequencies_, position, sizes_.query_heads, row + q_.offset);
    RotateHeads(frequencies_, position, sizes_.key_heads, row + k_.offset);
  }

  void FillGates(const float*, float*, const Gates& gates) const override {
    std::copy(decays_.begin(), decays_.end(), gates.g);
  }

  std::vector<double> frequencies_;
  Floats decays_;
};

}  // namespace

MixerOr MakeRetention(const MixerSource& source) { return Retention::Make(source); }

}  // namespace attnd::models
