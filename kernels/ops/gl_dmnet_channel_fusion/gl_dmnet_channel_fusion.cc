#include "kernels/core/registry.h"
#include "kernels/cores/layers.h"
#include "kernels/cores/mean_attention.h"
#include "kernels/cores/mutual_fusion.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "gl_dmnet_channel_fusion",
      .paper =
          "Dual Mutual Learning Network with Global-local Awareness for RGB-D Salient Object "
          "Detection (2025)",
      .summary = "Fusion of two modalities over channels, by signed powers without softmax",
      .core = "none",
      .definition =
          R"(Channels of two modalities and of their fusion collect the others, weighted by a signed power of their inner product with the fused channels (2025).
  c = [f_rgb; f_depth],  w = FC(max_n c) + FC(mean_n c),  FC(t) = fc2 relu(fc1 t)
  h = relu(mix_scale (mix_weight (c w)) + mix_shift),  M(x) = sign(x) |x|^p
  C_rgb[n,x] = sum_y M(sum_m f_rgb[m,x] h[m,y]) f_rgb[n,y], C_depth likewise,
  C_fused[n,x] = sum_y (both maps)_xy h[n,y], each divided by its norm)",
      .inputs =
          FusionInputs({"f_rgb: float[B,N,C]", "f_depth: float[B,N,C]", "fc1_weight: float[R,2*C]",
                        "fc1_bias: float[R]?  # 0 when absent", "fc2_weight: float[2*C,R]",
                        "fc2_bias: float[2*C]?  # 0 when absent", "mix_weight: float[C,2*C]",
                        "mix_scale: float[C]", "mix_shift: float[C]"}),
      .attributes = FusionAttributes({"gate: {none, sigmoid} = none  # on the channels' weights"}),
      .outputs = FusionOutputs("c"),
      .rules = FusionRules(),
      .float32_tolerance = 1e-4,
  };
  return schema;
}

// h [B,N,C].
Array FusedFeature(Composer& c, const Array& both) {
  const auto layers = [&c](const Array& pooled) {
    const Array hidden = Maximum(Dense(pooled, c.In("fc1_weight"), c.In("fc1_bias")), 0.0);
    return Dense(hidden, c.In("fc2_weight"), c.In("fc2_bias"));
  };
  Array weight = layers(Max(both, 1)) + layers(Sum(both, 1) / static_cast<double>(c.dim("N")));
  if (c.choice("gate") == "sigmoid") weight = Sigmoid(weight);
  return ScaledRelu(Dense(both * weight, c.In("mix_weight")), c.In("mix_scale"), c.In("mix_shift"));
}

absl::Status Compose(Composer& c) {
  const Array rgb = c.In("f_rgb"), depth = c.In("f_depth");
  const Array h = FusedFeature(c, Concat(rgb, depth, 2));
  const auto map = [&](const Array& f) {
    return SignedPower(MatMul(f.T(), h), c.real("moment_power"));  // [B,C,C]
  };
  const Array of_rgb = map(rgb), of_depth = map(depth);
  WriteFused(c, MatMul(rgb, of_rgb.T()), MatMul(depth, of_depth.T()),
             MatMul(h, (of_rgb + of_depth).T()), "c");
  return c.status();
}

}  // namespace

void RegisterGlDmnetChannelFusion(Registry& registry);

void RegisterGlDmnetChannelFusion(Registry& registry) {
  registry.Add(Schema(), Compose).random = [](RandomSource& source) { DrawImage(source, "N"); };
}

}  // namespace attnd
