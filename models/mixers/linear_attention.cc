// model_type linear_attn: linear attention with a feature map, no decay.
#include "models/mixers/fla_sizes.h"
#include "models/mixers/recurrent_mixer.h"

namespace attnd::models {
namespace {

// phi(x) = (W_1 x + b_1) * (W_2 x + b_2), per head.
struct ProductMap {
  std::shared_ptr<const cpu::PackedMatrix> both;
  Floats bias;
};

ProductMap ReadProductMap(const std::string& name, int64_t size, WeightReader& weights) {
  ProductMap map;
  map.both = std::make_shared<const cpu::PackedMatrix>(
      weights.Stack({{name + ".layer1", size}, {name + ".layer2", size}}, size));
  map.bias = weights.Vector(name + ".layer1.bias", {size});
  const Floats second = weights.Vector(name + ".layer2.bias", {size});
  map.bias.insert(map.bias.end(), second.begin(), second.end());
  return map;
}

void AddProductMap(const ProductMap& map, RowSpan at, int64_t heads, RecurrentBuilder& builder) {
  const RowSpan both = builder.AddRoom(2 * at.size);
  builder.AddOp(
      {.kind = RowOpKind::kProject, .at = at, .to = both, .parts = heads, .matrix = map.both});
  Floats bias;
  for (int64_t h = 0; h < heads; ++h) bias.insert(bias.end(), map.bias.begin(), map.bias.end());
  builder.AddOp({.kind = RowOpKind::kAdd, .at = both, .v = std::move(bias)});
  builder.AddOp({.kind = RowOpKind::kHalvesProduct, .at = both, .to = at, .parts = heads});
}

}  // namespace

MixerOr MakeLinearAttention(const MixerSource& source) {
  RecurrentBuilder builder(source);
  decode::RecurrentProgram& program = builder.program;
  ConfigReader config(source.config.json, "config.json");
  ReadFlaSizes(config, source.config, {1.0, 1.0, 4}, program);
  const std::string name = config.Text("feature_map", "elementwise_product");
  const bool product = name == "elementwise_product";
  FeatureMap map = FeatureMap::kIdentity;
  if (name == "elu") {
    map = FeatureMap::kElu1;
  } else if (name == "relu") {
    map = FeatureMap::kRelu;
  } else if (name != "identity" && !product) {
    config.Fail("feature_map", "elementwise_product, elu, relu or identity");
  }
  const bool tied = config.Flag("tie_feature_map_qk", false);
  const bool norm_q = config.Flag("norm_q", false), norm_k = config.Flag("norm_k", false);
  program.normalise = config.Flag("norm_feature_map", false);
  program.dots_eps = 1e-10;
  const bool affine = config.Flag("elementwise_affine", true);
  if (!config.status().ok()) return config.status();
  builder.AddStreams("q_proj", "k_proj", "v_proj");
  program.norm_group = program.value_size;
  if (affine) program.norm = builder.weights.Vector("norm.weight", {program.value_size});

  const auto add = [&](RowSpan at, int64_t heads, const ProductMap& product_map, bool norm) {
    if (product) {
      AddProductMap(product_map, at, heads, builder);
    } else if (map != FeatureMap::kIdentity) {
      builder.AddOp({.kind = RowOpKind::kMap, .at = at, .map = map});
    }
    if (norm) builder.AddOp({.kind = RowOpKind::kSumNorm, .at = at, .parts = heads, .a = 1e-4});
  };
  ProductMap of_q, of_k;
  if (product) {
    const int64_t K = program.key_size;
    of_q = ReadProductMap("feature_map_q", K, builder.weights);
    // A tied map is one module that the checkpoint may list under both names.
    const bool shared = tied && !builder.weights.has("feature_map_k.layer1.weight");
    of_k = shared ? of_q : ReadProductMap("feature_map_k", K, builder.weights);
  }
  add(program.q, program.query_heads, of_q, norm_q);
  add(program.k, program.key_heads, of_k, norm_k);
  builder.AddScale();
  return builder.Finish();
}

}  // namespace attnd::models
