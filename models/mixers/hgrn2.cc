// model_type hgrn2: forget gates with a lower bound that grows with depth; the key is one minus the
// gate.
#include <algorithm>
#include <cmath>

#include "kernels/cores/forget_gate.h"
#include "kernels/primitives/cpu/vector_math.h"
#include "models/config_reader.h"
#include "models/layers/rows.h"
#include "models/mixers/recurrent_mixer.h"

namespace attnd::models {
namespace {

class Hgrn2 final : public RecurrentMixer {
 public:
  static MixerOr Make(const MixerSource& source) {
    std::unique_ptr<Hgrn2> mixer(new Hgrn2(source));
    ConfigReader config(source.config.json, "config.json");
    const int64_t hidden = source.config.hidden_size;
    // Head size of queries and gates; without it, as many heads as given.
    const int64_t heads = config.has("expand_ratio") || !config.has("num_heads")
                              ? hidden / config.Positive("expand_ratio", 128)
                              : config.Positive("num_heads", 1);
    const bool conv = config.Flag("use_short_conv", false);
    const int64_t taps = config.Positive("conv_size", 4);
    const bool affine = config.Flag("elementwise_affine", true);
    if (heads < 1 || hidden % heads != 0) config.Fail("expand_ratio", "a divisor of hidden_size");
    if (!config.status().ok()) return config.status();
    RecurrentSizes& sizes = mixer->sizes_;
    sizes.heads = sizes.query_heads = sizes.key_heads = sizes.value_heads = heads;
    sizes.key_size =
        config.has("expand_ratio") ? config.Positive("expand_ratio", 128) : hidden / heads;
    sizes.value_size = hidden / heads;
    mixer->shape_.decay = Decay::kVector;
    mixer->scale_ = 1 / std::sqrt(static_cast<double>(sizes.key_size));
    mixer->AddStreams("q_proj", "f_proj", "i_proj");
    if (conv) mixer->AddConvolutions("q_conv1d", "f_conv1d", "i_conv1d", taps, false, false, false);
    if (absl::Status s = mixer->ReadBounds(source); !s.ok()) return s;
    Output output;
    output.group = hidden;
    output.eps = 1e-5;  // The library's default, whatever the config's norm_eps.
    if (affine) output.norm = mixer->weights_.Vector("g_norm.weight", {hidden});
    if (absl::Status s = mixer->Finish(std::move(output)); !s.ok()) return s;
    return mixer;
  }

 private:
  using RecurrentMixer::RecurrentMixer;

  // The bounds of layer l: the softmax over layers summed up to l, less that of layer 0. None at
  // layer 0.
  absl::Status ReadBounds(const MixerSource& source) {
    if (!source.lower_bounds.defined() || source.layer == 0) return absl::OkStatus();
    const int64_t layers = source.lower_bounds.dim(0), width = source.lower_bounds.dim(1);
    std::vector<float> all(static_cast<size_t>(layers * width));
    cpu::LoadRow(source.lower_bounds.raw(), source.lower_bounds.dtype(), all.data(),
                 layers * width);
    for (int64_t c = 0; c < width; ++c) {
      const auto at = [&](int64_t layer) {
        return double{all[static_cast<size_t>(layer * width + c)]};
      };
      double most = at(0), sum = 0, up_to = 0;
      for (int64_t l = 1; l < layers; ++l) most = std::max(most, at(l));
      for (int64_t l = 0; l < layers; ++l) sum += std::exp(at(l) - most);
      for (int64_t l = 1; l <= source.layer; ++l) up_to += std::exp(at(l) - most) / sum;
      bounds_.push_back(static_cast<float>(up_to));
    }
    return absl::OkStatus();
  }

  void Features(int64_t, const float*, float* row) const override {
    cpu::SiluRow(row + q_.offset, q_.size);
  }

  // The forget part becomes the key, 1 - e^g.
  void FillGates(const float*, float* row, const Gates& gates) const override {
    const float* bounds = bounds_.empty() ? nullptr : bounds_.data();
    cpu::ForgetGateRows(bounds, 1, k_.size, row + k_.offset, gates.g);
  }

  Floats bounds_;  // [H,K], or empty: 0.
};

}  // namespace

MixerOr MakeHgrn2(const MixerSource& source) { return Hgrn2::Make(source); }

}  // namespace attnd::models
