// model_type gated_deltanet: the delta rule with one forget gate a head.
#include "models/mixers/gated_delta.h"

namespace attnd::models {
namespace {

class GatedDeltaNet final : public GatedDeltaMixer {
 public:
  static MixerOr Make(const MixerSource& source) {
    std::unique_ptr<GatedDeltaNet> mixer(new GatedDeltaNet(source));
    ConfigReader config(source.config.json, "config.json");
    mixer->ReadShared(config, 256, 6, 2);
    const bool gated = config.Flag("use_gate", true);
    const std::string activation = config.Text("output_gate_activation", "swish");
    if (activation != "swish" && activation != "silu" && activation != "sigmoid") {
      config.Fail("output_gate_activation", "swish, silu or sigmoid");
    }
    if (!config.status().ok()) return config.status();
    const RecurrentSizes& sizes = mixer->sizes_;
    mixer->shape_.decay = Decay::kScalar;
    mixer->raw_ = mixer->AddPart("a_proj", sizes.heads);
    mixer->dt_bias_ = mixer->weights_.Vector("dt_bias", {sizes.heads});
    Output output;
    output.norm = mixer->weights_.Vector("o_norm.weight", {sizes.value_size});
    if (gated) {
      mixer->gate_ = mixer->AddPart("g_proj", sizes.heads * sizes.value_size);
      output.gate = activation == "sigmoid" ? Output::Gate::kSigmoid : Output::Gate::kSilu;
    }
    if (absl::Status s = mixer->Finish(std::move(output)); !s.ok()) return s;
    return mixer;
  }

 private:
  using GatedDeltaMixer::GatedDeltaMixer;

  void FillGates(const float*, float* row, const Gates& gates) const override {
    for (int64_t h = 0; h < sizes_.heads; ++h) GateHead(h, row + raw_.offset + h, 1, gates.g + h);
    FillBeta(row, gates.beta);
  }

  Part raw_;
};

}  // namespace

MixerOr MakeGatedDeltaNet(const MixerSource& source) { return GatedDeltaNet::Make(source); }

}  // namespace attnd::models
