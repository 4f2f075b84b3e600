// model_type delta_net: the delta rule on normalised queries and keys.
#include "models/mixers/fla_sizes.h"
#include "models/mixers/recurrent_mixer.h"

namespace attnd::models {

MixerOr MakeDeltaNet(const MixerSource& source) {
  RecurrentBuilder builder(source);
  decode::RecurrentProgram& program = builder.program;
  ConfigReader config(source.config.json, "config.json");
  ReadFlaSizes(config, source.config, {1.0, 1.0, 16}, program);
  const int64_t heads = program.heads;
  if (program.key_heads != heads) config.Fail("num_kv_heads", "num_heads, or nothing");
  const std::string activation = config.Text("qk_activation", "silu");
  const std::string norm = config.Text("qk_norm", "l2");
  const bool conv = config.Flag("use_short_conv", true);
  const int64_t taps = config.Positive("conv_size", 4);
  const bool beta = config.Flag("use_beta", true);
  const bool gated = config.Flag("use_gate", false);
  FeatureMap map = FeatureMap::kIdentity;
  if (activation == "relu") {
    map = FeatureMap::kRelu;
  } else if (activation == "elu") {
    map = FeatureMap::kElu1;
  } else if (activation == "silu") {
    if (!conv) map = FeatureMap::kSilu;  // Else it is the convolutions'.
  } else if (activation != "identity") {
    config.Fail("qk_activation", "silu, relu, elu or identity");
  }
  if (norm != "l2" && norm != "sum") config.Fail("qk_norm", "l2 or sum");
  const double strength = config.Flag("allow_neg_eigval", false) ? 2 : 1;
  if (!config.status().ok()) return config.status();
  program.delta = true;
  builder.AddStreams("q_proj", "k_proj", "v_proj");
  program.beta = beta ? builder.AddPart("b_proj", heads) : RowSpan();
  program.norm_group = program.value_size;
  program.norm = builder.weights.Vector("o_norm.weight", {program.value_size});
  if (gated) {
    program.gate = builder.AddPart("g_proj", heads * program.value_size);
    program.gate_kind = decode::RecurrentProgram::Gate::kSilu;
  }
  if (conv) {
    builder.AddConvolutions("q_conv1d", "k_conv1d", "v_conv1d", taps, false, activation == "silu",
                            true);
  }

  for (const RowSpan& part : {program.q, program.k}) {
    if (map != FeatureMap::kIdentity) {
      builder.AddOp({.kind = RowOpKind::kMap, .at = part, .parts = heads, .map = map});
    }
    if (norm == "l2") {
      builder.AddOp({.kind = RowOpKind::kL2Norm, .at = part, .parts = heads, .a = 1e-6});
    } else {
      builder.AddOp({.kind = RowOpKind::kSumNorm, .at = part, .parts = heads});
    }
  }
  if (!conv) builder.AddOp({.kind = RowOpKind::kMap, .at = program.v, .map = FeatureMap::kSilu});
  if (beta) {
    builder.AddStrength(strength);
  } else {
    program.beta = builder.AddRoom(heads);
    builder.AddOp({.kind = RowOpKind::kFill,
                   .at = program.beta,
                   .v = Floats(static_cast<size_t>(heads), static_cast<float>(strength))});
  }
  builder.AddScale();
  return builder.Finish();
}

}  // namespace attnd::models
