// model_type based: normalised linear attention whose feature map is the second-order Taylor
// polynomial of exp (Arora et al., "Simple linear attention language models balance the
// recall-throughput tradeoff", 2024). Parameters are those of flash-linear-attention's layer
// BasedLinearAttention.
#include <cmath>
#include <numbers>

#include "absl/strings/str_cat.h"
#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"
#include "models/config_reader.h"
#include "models/mixers/recurrent_mixer.h"

namespace attnd::models {
namespace {

// Of the library's causal kernel: the layer's own `eps` is that of other forms.
constexpr double kEps = 1e-6;

class Based final : public RecurrentMixer {
 public:
  static MixerOr Make(const MixerSource& source) {
    std::unique_ptr<Based> mixer(new Based(source));
    ConfigReader config(source.config.json, "config.json");
    const int64_t heads = config.Positive("num_heads", 12);
    const int64_t size = config.Positive("feature_dim", 16);
    config.Only("feature_name", "taylor_exp");
    config.Only("causal", true);
    if (config.Positive("num_key_value_heads", heads) != heads) {
      config.Fail("num_key_value_heads", absl::StrCat("num_heads, ", heads));
    }
    if (source.config.hidden_size % heads != 0) {
      config.Fail("num_heads",
                  absl::StrCat("a divisor of hidden_size ", source.config.hidden_size));
    }
    if (!config.status().ok()) return config.status();
    RecurrentSizes& sizes = mixer->sizes_;
    sizes.heads = sizes.query_heads = sizes.key_heads = sizes.value_heads = heads;
    sizes.value_size = source.config.hidden_size / heads;
    // 1, x_i, x_i x_j for j <= i.
    sizes.key_size = 1 + size + size * (size + 1) / 2;
    mixer->shape_.normalise = true;
    mixer->dots_eps_ = kEps;
    mixer->plain_size_ = size;
    mixer->plain_q_ = mixer->AddPart("q_proj", heads * size);
    mixer->plain_k_ = mixer->AddPart("k_proj", heads * size);
    mixer->v_ = mixer->AddPart("v_proj", heads * sizes.value_size);
    mixer->q_ = mixer->AddRoom(heads * sizes.key_size);
    mixer->k_ = mixer->AddRoom(heads * sizes.key_size);
    Output output;
    output.group = 0;
    if (absl::Status s = mixer->Finish(std::move(output)); !s.ok()) return s;
    return mixer;
  }

 private:
  using RecurrentMixer::RecurrentMixer;

  // phi(q)·phi(k) = 1 + s + s^2/2, s = q·k / sqrt(K): the two halves of the symmetric x_i x_j are
  // one feature, of twice the weight.
  void Map(const float* x, float* features) const {
    const int64_t K = plain_size_;
    const double fourth = std::sqrt(std::sqrt(static_cast<double>(K)));
    cpu::Scratch scratch;
    float* scaled = scratch.Take<float>(K);
    std::copy_n(x, K, scaled);
    cpu::ScaleRow(scaled, static_cast<float>(1 / fourth), K);
    *features++ = 1;
    std::copy_n(scaled, K, features);
    features += K;
    for (int64_t i = 0; i < K; ++i) {
      std::copy_n(scaled, i + 1, features);
      cpu::ScaleRow(features, scaled[i], i + 1);
      features[i] *= static_cast<float>(1 / std::numbers::sqrt2);
      features += i + 1;
    }
  }

  void Features(int64_t, const float*, float* row) const override {
    for (int64_t h = 0; h < sizes_.heads; ++h) {
      const int64_t from = h * plain_size_, to = h * sizes_.key_size;
      Map(row + plain_q_.offset + from, row + q_.offset + to);
      Map(row + plain_k_.offset + from, row + k_.offset + to);
    }
  }

  int64_t plain_size_ = 0;  // K
  Part plain_q_, plain_k_;
};

}  // namespace

MixerOr MakeBased(const MixerSource& source) { return Based::Make(source); }

}  // namespace attnd::models
