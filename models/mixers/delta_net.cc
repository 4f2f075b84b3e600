// model_type delta_net: the delta rule on normalised queries and keys.
#include <algorithm>
#include <cmath>

#include "kernels/cores/feature_maps.h"
#include "kernels/primitives/cpu/vector_math.h"
#include "models/config_reader.h"
#include "models/layers/rows.h"
#include "models/mixers/fla_sizes.h"
#include "models/mixers/recurrent_mixer.h"

namespace attnd::models {
namespace {

class DeltaNet final : public RecurrentMixer {
 public:
  static MixerOr Make(const MixerSource& source) {
    std::unique_ptr<DeltaNet> mixer(new DeltaNet(source));
    ConfigReader config(source.config.json, "config.json");
    mixer->sizes_ = ReadFlaSizes(config, source.config, {1.0, 1.0, 4});
    RecurrentSizes& sizes = mixer->sizes_;
    if (sizes.key_heads != sizes.heads) config.Fail("num_kv_heads", "num_heads, or nothing");
    const std::string activation = config.Text("qk_activation", "silu");
    const std::string norm = config.Text("qk_norm", "l2");
    const bool conv = config.Flag("use_short_conv", true);
    const int64_t taps = config.Positive("conv_size", 4);
    const bool beta = config.Flag("use_beta", true);
    const bool gated = config.Flag("use_gate", false);
    if (activation == "relu") {
      mixer->map_ = FeatureMap::kRelu;
    } else if (activation == "elu") {
      mixer->map_ = FeatureMap::kElu1;
    } else if (activation == "silu") {
      mixer->map_ = conv ? FeatureMap::kIdentity : FeatureMap::kSilu;
    } else if (activation != "identity") {
      config.Fail("qk_activation", "silu, relu, elu or identity");
    }
    if (norm != "l2" && norm != "sum") config.Fail("qk_norm", "l2 or sum");
    mixer->l2_ = norm == "l2";
    mixer->silu_v_ = !conv;
    mixer->strength_ = config.Flag("allow_neg_eigval", false) ? 2 : 1;
    if (!config.status().ok()) return config.status();
    mixer->shape_.delta = true;
    mixer->scale_ = 1 / std::sqrt(static_cast<double>(sizes.key_size));
    mixer->AddStreams("q_proj", "k_proj", "v_proj");
    if (beta) mixer->beta_ = mixer->AddPart("b_proj", sizes.heads);
    Output output;
    output.norm = mixer->weights_.Vector("o_norm.weight", {sizes.value_size});
    if (gated) {
      mixer->gate_ = mixer->AddPart("g_proj", sizes.heads * sizes.value_size);
      output.gate = Output::Gate::kSilu;
    }
    if (conv) {
      mixer->AddConvolutions("q_conv1d", "k_conv1d", "v_conv1d", taps, false, activation == "silu",
                             true);
    }
    if (absl::Status s = mixer->Finish(std::move(output)); !s.ok()) return s;
    return mixer;
  }

 private:
  using RecurrentMixer::RecurrentMixer;

  void Features(int64_t, const float*, float* row) const override {
    const int64_t size = sizes_.key_size;
    for (const Part* part : {&q_, &k_}) {
      cpu::ApplyRows(map_, row + part->offset, sizes_.heads, size, row + part->offset);
      for (int64_t h = 0; h < sizes_.heads; ++h) {
        float* head = row + part->offset + h * size;
        if (l2_) {
          L2NormRow(head, size, 1e-6);
        } else {
          cpu::ScaleRow(head, 1 / cpu::SumRow(head, size), size);
        }
      }
    }
    if (silu_v_) cpu::SiluRow(row + v_.offset, v_.size);
  }

  void FillGates(const float*, float* row, const Gates& gates) const override {
    if (beta_.size > 0) {
      std::copy_n(row + beta_.offset, sizes_.heads, gates.beta);
      cpu::SigmoidRow(gates.beta, sizes_.heads);
    } else {
      std::fill_n(gates.beta, sizes_.heads, 1.0f);
    }
    cpu::ScaleRow(gates.beta, strength_, sizes_.heads);
  }

  FeatureMap map_ = FeatureMap::kIdentity;
  bool l2_ = true, silu_v_ = false;
  float strength_ = 1;
  Part beta_;
};

}  // namespace

MixerOr MakeDeltaNet(const MixerSource& source) { return DeltaNet::Make(source); }

}  // namespace attnd::models
