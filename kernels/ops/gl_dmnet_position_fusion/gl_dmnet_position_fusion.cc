#include <algorithm>

#include "kernels/core/part_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/image_conv.h"
#include "kernels/cores/layers.h"
#include "kernels/cores/mean_attention.h"
#include "kernels/cores/mutual_fusion.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "gl_dmnet_position_fusion",
      .paper =
          "Dual Mutual Learning Network with Global-local Awareness for RGB-D Salient Object "
          "Detection (2025)",
      .summary = "Fusion of two modalities over positions, by signed powers without softmax",
      .core = "none",
      .definition =
          R"(Positions of two modalities and of their fusion collect the others, weighted by a signed power of their likeness to the fused feature (2025). M(x) = sign(x) |x|^p:
  A = f_rgb + f_depth,  W = act(sp_scale conv7x7([max A; mean A]) + sp_shift)
  s = relu(mix_scale (mix_weight (A W + A)) + mix_shift)
  P_rgb_j = sum_i M(s_i.f_rgb_j) f_rgb_i, P_depth likewise,
  P_fused_j = sum_i (M(s_i.f_rgb_j) + M(s_i.f_depth_j)) s_i, each divided by its norm)",
      .inputs =
          FusionInputs({"f_rgb: float[B,N,C]", "f_depth: float[B,N,C]",
                        "sp_weight: float[2,7,7]  # kernel over the maps of maxima and of means",
                        "sp_scale: float[1]", "sp_shift: float[1]", "mix_weight: float[C,C]",
                        "mix_scale: float[C]", "mix_shift: float[C]"}),
      .attributes = FusionAttributes({"gate: {relu, sigmoid} = relu  # on the spatial weight"}),
      .outputs = FusionOutputs("p"),
      .rules = FusionRules(),
      .float32_tolerance = 1e-4,
  };
  return schema;
}

// s [B,N,C].
Array FusedFeature(Composer& c, const Array& sum) {
  const Array mean = Sum(sum, 2) / static_cast<double>(c.dim("C"));
  const Array maps = Concat(Max(sum, 2), mean, 2);
  const Array conv =
      Conv(maps, c.In("sp_weight").Unsqueeze(0), c.integer("height"), c.integer("width"));
  const Array scaled = conv * c.In("sp_scale") + c.In("sp_shift");
  const Array weight = c.choice("gate") == "relu" ? Maximum(scaled, 0.0) : Sigmoid(scaled);
  return ScaledRelu(Dense(sum * weight + sum, c.In("mix_weight")), c.In("mix_scale"),
                    c.In("mix_shift"));
}

struct Fused {
  Array rgb, depth, fused;
};

// Without a power the sums over i need no pairs.
Fused Linear(Composer& c, const Array& rgb, const Array& depth, const Array& s) {
  const auto collect = [&](const Array& receiver, const Array& values) {
    PartCall linear(c, "linear_attention");
    linear.In("q", receiver.Unsqueeze(2)).In("k", s.Unsqueeze(2)).In("v", values.Unsqueeze(2));
    const Array o = linear.Set("causal", false).Set("scale", 1.0).Out("o");
    return o.defined() ? o.Select(2, 0) : Array();
  };
  return {collect(rgb, rgb), collect(depth, depth), collect(rgb + depth, s)};
}

// Some receivers at a time, so that no matrix of all pairs is ever there.
Fused Pairwise(Composer& c, const Array& rgb, const Array& depth, const Array& s) {
  constexpr int64_t kReceivers = 256;
  const Dims shape = {c.dim("B"), c.dim("N"), c.dim("C")};
  const Fused out = {c.Empty(shape), c.Empty(shape), c.Empty(shape)};
  const double power = c.real("moment_power");
  for (int64_t begin = 0; begin < c.dim("N") && c.status().ok(); begin += kReceivers) {
    const int64_t count = std::min(kReceivers, c.dim("N") - begin);
    const auto likeness = [&](const Array& f) {
      return SignedPower(MatMul(f.Slice(1, begin, count), s.T()), power);  // [B,count,N]
    };
    const Array of_rgb = likeness(rgb), of_depth = likeness(depth);
    out.rgb.Slice(1, begin, count).Assign(MatMul(of_rgb, rgb));
    out.depth.Slice(1, begin, count).Assign(MatMul(of_depth, depth));
    out.fused.Slice(1, begin, count).Assign(MatMul(of_rgb + of_depth, s));
  }
  return out;
}

absl::Status Compose(Composer& c) {
  const Array rgb = c.In("f_rgb"), depth = c.In("f_depth");
  const Array s = FusedFeature(c, rgb + depth);
  const bool linear = c.real("moment_power") == 1;
  const Fused fused = linear ? Linear(c, rgb, depth, s) : Pairwise(c, rgb, depth, s);
  WriteFused(c, fused.rgb, fused.depth, fused.fused, "p");
  return c.status();
}

}  // namespace

void RegisterGlDmnetPositionFusion(Registry& registry);

void RegisterGlDmnetPositionFusion(Registry& registry) {
  registry.AddOfParts(Schema(), Compose).random = [](RandomSource& source) {
    DrawImage(source, "N");
  };
}

}  // namespace attnd
