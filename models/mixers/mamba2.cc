// model_type mamba2: a state-space model with one decay per head (Dao and Gu, "Transformers are
// SSMs", 2024). In the recurrence's terms C is the query, B the key, dt x the value and exp(dt a)
// the decay.
//
//   [z, x, B, C, dt] = W x;  x, B, C = silu(conv(x, B, C));  dt = clamp(softplus(dt + dt_bias))
//   S = exp(-exp(A_log) dt) S + B (dt x)^T,  y = S^T C + D x,  o = W_o RMSNorm(y silu(z))
#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "kernels/primitives/cpu/vector_math.h"
#include "models/config_reader.h"
#include "models/layers/rows.h"
#include "models/mixers/recurrent_mixer.h"

namespace attnd::models {
namespace {

class Mamba2 final : public RecurrentMixer {
 public:
  static MixerOr Make(const MixerSource& source) {
    std::unique_ptr<Mamba2> mixer(new Mamba2(source));
    ConfigReader config(source.config.json, "config.json");
    mixer->ReadSizes(config);
    mixer->ReadLimits(source.config.json, config);
    const int64_t taps = config.Positive("conv_kernel", 4);
    const bool bias = config.Flag("use_bias", false);
    const bool conv_bias = config.Flag("use_conv_bias", true);
    const bool by_channel = config.Flag("D_has_hdim", false);
    const bool norm = config.Flag("rmsnorm", true);
    const bool norm_first = config.Flag("norm_before_gate", false);
    if (!config.status().ok()) return config.status();

    const RecurrentSizes& sizes = mixer->sizes_;
    const int64_t inner = sizes.heads * sizes.value_size;
    const int64_t keys = sizes.key_heads * sizes.key_size;
    mixer->AddPart("in_proj", 2 * inner + 2 * keys + sizes.heads);
    mixer->gate_ = {0, inner};
    mixer->x_ = {inner, inner};
    mixer->k_ = {2 * inner, keys};
    mixer->q_ = {2 * inner + keys, keys};
    mixer->dt_ = {2 * inner + 2 * keys, sizes.heads};
    mixer->v_ = mixer->AddRoom(inner);
    mixer->AddConvolution("conv1d", {inner, inner + 2 * keys}, taps, conv_bias, true);
    WeightReader& weights = mixer->weights_;
    mixer->rate_ = weights.Vector("A_log", {sizes.heads});
    for (float& rate : mixer->rate_) rate = std::exp(rate);
    mixer->dt_bias_ = weights.Vector("dt_bias", {sizes.heads});
    mixer->skip_ = weights.Vector("D", {by_channel ? inner : sizes.heads});
    if (!weights.status().ok()) return weights.status();
    if (!by_channel) mixer->RepeatSkip();

    Output output;
    output.group = norm ? inner / sizes.key_heads : 0;
    if (norm) output.norm = weights.Vector("norm.weight", {inner});
    output.gate = Output::Gate::kSilu;
    output.gate_first = !norm_first;
    if (absl::Status s = mixer->Finish(std::move(output), "out_proj", bias); !s.ok()) return s;
    return mixer;
  }

 private:
  using RecurrentMixer::RecurrentMixer;

  void ReadSizes(ConfigReader& config) {
    RecurrentSizes& sizes = sizes_;
    sizes.value_size = config.Positive("head_dim", 64);
    sizes.key_size = config.Positive("state_size", 128);
    const double expand = config.Real("expand", 2);
    const auto inner = static_cast<int64_t>(static_cast<double>(sizes.hidden) * expand);
    if (inner < 1 || inner % sizes.value_size != 0) {
      config.Fail("expand",
                  absl::StrCat("hidden_size times it a multiple of head_dim ", sizes.value_size));
      return;
    }
    sizes.heads = sizes.value_heads = inner / sizes.value_size;
    if (config.Positive("num_heads", sizes.heads) != sizes.heads) {
      config.Fail("num_heads", absl::StrCat("hidden_size expand / head_dim, ", sizes.heads));
    }
    sizes.query_heads = sizes.key_heads = config.Positive("n_groups", 1);
    if (sizes.heads % sizes.key_heads != 0) {
      config.Fail("n_groups", absl::StrCat("a divisor of the heads, ", sizes.heads));
    }
    shape_.decay = Decay::kScalar;
  }

  // dt_limit: two numbers, of which Infinity is written in more than one way.
  void ReadLimits(const nlohmann::json& json, ConfigReader& config) {
    if (!config.has("dt_limit")) return;
    const nlohmann::json& limits = json["dt_limit"];
    bool good = limits.is_array() && limits.size() == 2 && limits[0].is_number();
    if (good) {
      least_ = limits[0].get<float>();
      nlohmann::json most = limits[1];
      if (most.is_object()) most = most.value("__float__", "");
      good = most.is_number() || most == "Infinity";
      if (most.is_number()) most_ = most.get<float>();
    }
    if (!good || least_ > most_) config.Fail("dt_limit", "two numbers, the smaller one first");
  }

  void RepeatSkip() {
    Floats channels;
    for (const float d : skip_) {
      channels.insert(channels.end(), static_cast<size_t>(sizes_.value_size), d);
    }
    skip_ = std::move(channels);
  }

  void FillGates(const float*, float* row, const Gates& gates) const override {
    const int64_t P = sizes_.value_size;
    std::copy_n(row + x_.offset, x_.size, row + v_.offset);
    for (int64_t h = 0; h < sizes_.heads; ++h) {
      const auto at = static_cast<size_t>(h);
      const float dt = std::clamp(Softplus(row[dt_.offset + h] + dt_bias_[at]), least_, most_);
      cpu::ScaleRow(row + v_.offset + h * P, dt, P);
      gates.g[h] = -rate_[at] * dt;
    }
  }

  void Skip(const float* row, float* y) const override {
    cpu::MulAddRow(skip_.data(), row + x_.offset, y, x_.size);
  }

  Part x_, dt_;
  Floats rate_;     // exp(A_log) [heads]
  Floats dt_bias_;  // [heads]
  Floats skip_;     // D [heads * P]
  float least_ = 0, most_ = std::numeric_limits<float>::infinity();
};

}  // namespace

MixerOr MakeMamba2(const MixerSource& source) { return Mamba2::Make(source); }

}  // namespace attnd::models
