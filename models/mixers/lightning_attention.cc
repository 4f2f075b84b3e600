// model_type lightning_attn: linear attention with one constant decay per head and layer (Qin et
// al., "Various Lengths, Constant Speed", 2024): the layer of TNL in the frame of the other
// classes.
//
//   q, k, v = silu(W x);  S = e^g S + k v^T,  o = S^T q;  y = W_o (RMSNorm(o) sigmoid(W_1 W_0 x))
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/cores/slopes.h"
#include "kernels/primitives/cpu/vector_math.h"
#include "models/config_reader.h"
#include "models/mixers/recurrent_mixer.h"

namespace attnd::models {
namespace {

class LightningAttention final : public RecurrentMixer {
 public:
  static MixerOr Make(const MixerSource& source) {
    std::unique_ptr<LightningAttention> mixer(new LightningAttention(source));
    ConfigReader config(source.config.json, "config.json");
    const int64_t hidden = source.config.hidden_size;
    const int64_t heads = config.Positive("num_heads", 8);
    if (hidden % heads != 0) {
      config.Fail("num_heads", absl::StrCat("a divisor of hidden_size ", hidden));
    }
    const std::string decay = config.Text("decay", "alibi");
    if (decay != "alibi" && decay != "linear" && decay != "none") {
      config.Fail("decay", "alibi, linear or none");
    }
    if (!config.status().ok()) return config.status();
    RecurrentSizes& sizes = mixer->sizes_;
    sizes.heads = sizes.query_heads = sizes.key_heads = sizes.value_heads = heads;
    sizes.key_size = sizes.value_size = hidden / heads;
    for (const double g : LayerDecays(decay, heads, source.layer, source.config.layers)) {
      mixer->decays_.push_back(static_cast<float>(g));
    }
    mixer->shape_.decay = decay == "none" ? Decay::kNone : Decay::kScalar;
    mixer->AddStreams("q_proj", "k_proj", "v_proj");
    mixer->low_ = mixer->AddPart("g_proj.0", sizes.value_size);
    mixer->gate_up_ = mixer->weights_.Matrix("g_proj.1", hidden, sizes.value_size);
    mixer->gate_ = mixer->AddRoom(hidden);
    Output output;
    output.group = hidden;
    output.gate = Output::Gate::kSigmoid;
    if (absl::Status s = mixer->Finish(std::move(output)); !s.ok()) return s;
    return mixer;
  }

 private:
  using RecurrentMixer::RecurrentMixer;

  void Features(int64_t, const float*, float* row) const override {
    for (const Part* part : {&q_, &k_, &v_}) cpu::SiluRow(row + part->offset, part->size);
    gate_up_.Multiply(row + low_.offset, 1, row + gate_.offset);
  }

  void FillGates(const float*, float*, const Gates& gates) const override {
    std::copy(decays_.begin(), decays_.end(), gates.g);
  }

  Floats decays_;  // [heads]
  Part low_;
  cpu::PackedMatrix gate_up_;
};

}  // namespace

MixerOr MakeLightningAttention(const MixerSource& source) {
  return LightningAttention::Make(source);
}

}  // namespace attnd::models
