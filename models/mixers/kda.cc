// model_type kda: the delta rule with a forget gate per key channel, from a low-rank projection.
#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"
#include "models/mixers/gated_delta.h"

namespace attnd::models {
namespace {

class Kda final : public GatedDeltaMixer {
 public:
  static MixerOr Make(const MixerSource& source) {
    std::unique_ptr<Kda> mixer(new Kda(source));
    ConfigReader config(source.config.json, "config.json");
    mixer->ReadShared(config, 128, 16, 1);
    mixer->lower_bound_ = config.Real("lower_bound", 0);
    if (mixer->lower_bound_ > 0) config.Fail("lower_bound", "a number below 0");
    if (!config.status().ok()) return config.status();
    const RecurrentSizes& sizes = mixer->sizes_;
    const int64_t gates = sizes.heads * sizes.key_size, values = sizes.heads * sizes.value_size;
    mixer->shape_.decay = Decay::kVector;
    mixer->raw_ = mixer->AddPart("f_proj.0", sizes.value_size);
    mixer->raw_up_ = mixer->weights_.Matrix("f_proj.1", gates, sizes.value_size);
    mixer->dt_bias_ = mixer->weights_.Vector("dt_bias", {gates});
    mixer->low_gate_ = mixer->AddPart("g_proj.0", sizes.value_size);
    mixer->gate_up_ = mixer->weights_.Matrix("g_proj.1", values, sizes.value_size);
    mixer->gate_bias_ = mixer->weights_.Vector("g_proj.1.bias", {values});
    mixer->gate_ = mixer->AddRoom(values);
    Output output;
    output.norm = mixer->weights_.Vector("o_norm.weight", {sizes.value_size});
    output.gate = Output::Gate::kSigmoid;
    if (absl::Status s = mixer->Finish(std::move(output)); !s.ok()) return s;
    return mixer;
  }

 private:
  using GatedDeltaMixer::GatedDeltaMixer;

  void FillGates(const float*, float* row, const Gates& gates) const override {
    const int64_t size = sizes_.key_size;
    cpu::Scratch scratch;
    float* raw = scratch.Take<float>(sizes_.heads * size);
    raw_up_.Multiply(row + raw_.offset, 1, raw);
    for (int64_t h = 0; h < sizes_.heads; ++h)
      GateHead(h, raw + h * size, size, gates.g + h * size);
    FillBeta(row, gates.beta);
    gate_up_.Multiply(row + low_gate_.offset, 1, row + gate_.offset);
    cpu::AddRow(row + gate_.offset, gate_bias_.data(), row + gate_.offset, gate_.size);
  }

  Part raw_, low_gate_;
  cpu::PackedMatrix raw_up_, gate_up_;
  Floats gate_bias_;
};

}  // namespace

MixerOr MakeKda(const MixerSource& source) { return Kda::Make(source); }

}  // namespace attnd::models
