// model_type hgrn2: forget gates with a lower bound that grows with depth; the key is one minus the
// gate.
#include <algorithm>
#include <cmath>

#include "kernels/primitives/cpu/vector_math.h"
#include "models/mixers/recurrent_mixer.h"

namespace attnd::models {
namespace {

// The bounds of layer l: the softmax over layers summed up to l, less that of layer 0. None at
// layer 0.
Floats LowerBounds(const MixerSource& source) {
  Floats bounds;
  if (!source.lower_bounds.defined() || source.layer == 0) return bounds;
  const int64_t layers = source.lower_bounds.dim(0), width = source.lower_bounds.dim(1);
  Floats all(static_cast<size_t>(layers * width));
  cpu::LoadRow(source.lower_bounds.raw(), source.lower_bounds.dtype(), all.data(), layers * width);
  for (int64_t c = 0; c < width; ++c) {
    const auto at = [&](int64_t layer) {
      return double{all[static_cast<size_t>(layer * width + c)]};
    };
    double most = at(0), sum = 0, up_to = 0;
    for (int64_t l = 1; l < layers; ++l) most = std::max(most, at(l));
    for (int64_t l = 0; l < layers; ++l) sum += std::exp(at(l) - most);
    for (int64_t l = 1; l <= source.layer; ++l) up_to += std::exp(at(l) - most) / sum;
    bounds.push_back(static_cast<float>(up_to));
  }
  return bounds;
}

}  // namespace

MixerOr MakeHgrn2(const MixerSource& source) {
  RecurrentBuilder builder(source);
  decode::RecurrentProgram& program = builder.program;
  ConfigReader config(source.config.json, "config.json");
  const int64_t hidden = source.config.hidden_size;
  // Head size of queries and gates; where it is null, as many heads as given.
  const bool by_size = !source.config.json.contains("expand_ratio") || config.has("expand_ratio") ||
                       !config.has("num_heads");
  const int64_t heads =
      by_size ? hidden / config.Positive("expand_ratio", 128) : config.Positive("num_heads", 1);
  const bool conv = config.Flag("use_short_conv", false);
  const int64_t taps = config.Positive("conv_size", 4);
  const bool affine = config.Flag("elementwise_affine", true);
  if (heads < 1 || hidden % heads != 0) config.Fail("expand_ratio", "a divisor of hidden_size");
  if (!config.status().ok()) return config.status();
  program.heads = program.query_heads = program.key_heads = program.value_heads = heads;
  program.key_size = by_size ? config.Positive("expand_ratio", 128) : hidden / heads;
  program.value_size = hidden / heads;
  builder.AddStreams("q_proj", "f_proj", "i_proj");
  if (conv) builder.AddConvolutions("q_conv1d", "f_conv1d", "i_conv1d", taps, false, false, false);
  program.norm_group = hidden;
  program.norm_eps = 1e-5;  // The library's default, whatever the config's norm_eps.
  if (affine) program.norm = builder.weights.Vector("g_norm.weight", {hidden});

  program.decay = Decay::kVector;
  program.g = builder.AddRoom(program.k.size);
  builder.AddOp({.kind = RowOpKind::kMap, .at = program.q, .map = FeatureMap::kSilu});
  // The forget part becomes the key, 1 - e^g.
  builder.AddOp(
      {.kind = RowOpKind::kForgetGate, .at = program.k, .to = program.g, .v = LowerBounds(source)});
  builder.AddScale();
  return builder.Finish();
}

}  // namespace attnd::models
