// model_type linear_attn: linear attention with a feature map, no decay.
#include <cmath>

#include "kernels/cores/feature_maps.h"
#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"
#include "models/config_reader.h"
#include "models/mixers/fla_sizes.h"
#include "models/mixers/recurrent_mixer.h"

namespace attnd::models {
namespace {

class LinearAttention final : public RecurrentMixer {
 public:
  static MixerOr Make(const MixerSource& source) {
    std::unique_ptr<LinearAttention> mixer(new LinearAttention(source));
    ConfigReader config(source.config.json, "config.json");
    mixer->sizes_ = ReadFlaSizes(config, source.config, {1.0, 1.0, 4});
    const std::string map = config.Text("feature_map", "elementwise_product");
    if (map == "elu") {
      mixer->map_ = FeatureMap::kElu1;
    } else if (map == "relu") {
      mixer->map_ = FeatureMap::kRelu;
    } else if (map == "elementwise_product") {
      mixer->product_ = true;
    } else if (map != "identity") {
      config.Fail("feature_map", "elementwise_product, elu, relu or identity");
    }
    const bool tied = config.Flag("tie_feature_map_qk", false);
    mixer->norm_q_ = config.Flag("norm_q", false);
    mixer->norm_k_ = config.Flag("norm_k", false);
    mixer->shape_.normalise = config.Flag("norm_feature_map", false);
    mixer->dots_eps_ = 1e-10;
    const bool affine = config.Flag("elementwise_affine", true);
    if (!config.status().ok()) return config.status();
    const RecurrentSizes& sizes = mixer->sizes_;
    mixer->scale_ = 1 / std::sqrt(static_cast<double>(sizes.key_size));
    mixer->AddStreams("q_proj", "k_proj", "v_proj");
    if (mixer->product_) {
      mixer->query_map_ = ProductMap(mixer->weights_, "feature_map_q", sizes.key_size);
      // A tied map is one module that the checkpoint may list under both names.
      mixer->key_map_ = tied && !mixer->weights_.has("feature_map_k.layer1.weight")
                            ? mixer->query_map_
                            : ProductMap(mixer->weights_, "feature_map_k", sizes.key_size);
    }
    Output output;
    if (affine) output.norm = mixer->weights_.Vector("norm.weight", {sizes.value_size});
    if (absl::Status s = mixer->Finish(std::move(output)); !s.ok()) return s;
    return mixer;
  }

 private:
  // phi(x) = (W_1 x + b_1) * (W_2 x + b_2), per head.
  struct ProductMap {
    ProductMap() = default;
    ProductMap(WeightReader& weights, const std::string& name, int64_t size)
        : size_(size),
          both_(weights.Stack({{name + ".layer1", size}, {name + ".layer2", size}}, size)),
          bias_(weights.Vector(name + ".layer1.bias", {size})) {
      const Floats second = weights.Vector(name + ".layer2.bias", {size});
      bias_.insert(bias_.end(), second.begin(), second.end());
    }

    void Apply(float* heads, int64_t count) const {
      cpu::Scratch scratch;
      float* both = scratch.Take<float>(count * 2 * size_);
      both_.Multiply(heads, count, both);
      for (int64_t h = 0; h < count; ++h) {
        float* head = both + h * 2 * size_;
        cpu::AddRow(head, bias_.data(), head, 2 * size_);
        cpu::MulRow(head, head + size_, heads + h * size_, size_);
      }
    }

    int64_t size_ = 0;
    cpu::PackedMatrix both_;
    Floats bias_;
  };

  using RecurrentMixer::RecurrentMixer;

  void Map(const ProductMap& product, bool norm, float* heads, int64_t count) const {
    const int64_t size = sizes_.key_size;
    if (product_) {
      product.Apply(heads, count);
    } else {
      cpu::ApplyRows(map_, heads, count, size, heads);
    }
    for (int64_t h = 0; norm && h < count; ++h) {
      float* head = heads + h * size;
      cpu::ScaleRow(head, 1 / (cpu::SumRow(head, size) + 1e-4f), size);
    }
  }

  void Features(int64_t, const float*, float* row) const override {
    Map(query_map_, norm_q_, row + q_.offset, sizes_.query_heads);
    Map(key_map_, norm_k_, row + k_.offset, sizes_.key_heads);
  }

  FeatureMap map_ = FeatureMap::kIdentity;
  bool product_ = false;
  bool norm_q_ = false, norm_k_ = false;
  ProductMap query_map_, key_map_;
};

}  // namespace

MixerOr MakeLinearAttention(const MixerSource& source) { return LinearAttention::Make(source); }

}  // namespace attnd::models
