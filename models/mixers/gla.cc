// model_type gla: a log decay per key channel from a low-rank projection, logsigmoid(x) / 16.
#include <limits>

#include "models/mixers/fla_sizes.h"
#include "models/mixers/recurrent_mixer.h"

namespace attnd::models {
namespace {

constexpr double kNormalizer = 16;
constexpr int64_t kRank = 16;

}  // namespace

MixerOr MakeGla(const MixerSource& source) {
  RecurrentBuilder builder(source);
  decode::RecurrentProgram& program = builder.program;
  ConfigReader config(source.config.json, "config.json");
  ReadFlaSizes(config, source.config, {0.5, 1.0, 4}, program);
  config.Only("feature_map", nullptr);
  const bool conv = config.Flag("use_short_conv", false);
  const int64_t taps = config.Positive("conv_size", 4);
  const double floor = config.Real("clamp_min", -std::numeric_limits<float>::max());
  if (!config.status().ok()) return config.status();
  builder.AddStreams("q_proj", "k_proj", "v_proj");
  const RowSpan low_rank = builder.AddPart("gk_proj.0", kRank);
  builder.AddGatedNorm(config, "g_norm_swish_gate.weight", "g_norm.weight");
  if (!config.status().ok()) return config.status();
  if (conv) builder.AddConvolutions("q_conv1d", "k_conv1d", "v_conv1d", taps, false, true, true);

  program.decay = Decay::kVector;
  // Gates of the key heads, then of all heads.
  const int64_t group = program.heads / program.key_heads;
  const RowSpan own = builder.AddRoom(program.key_heads * program.key_size);
  program.g = group == 1 ? own : builder.AddRoom(own.size * group);
  builder.AddOp({.kind = RowOpKind::kProject,
                 .at = low_rank,
                 .to = own,
                 .matrix = builder.weights.SharedMatrix("gk_proj.1", own.size, kRank)});
  builder.AddOp({.kind = RowOpKind::kAdd,
                 .at = own,
                 .v = builder.weights.Vector("gk_proj.1.bias", {own.size})});
  builder.AddOp({.kind = RowOpKind::kLogSigmoid, .at = own, .a = kNormalizer, .b = floor});
  if (group > 1) {
    builder.AddOp({.kind = RowOpKind::kRepeat,
                   .at = own,
                   .to = program.g,
                   .parts = program.key_heads,
                   .a = static_cast<double>(group)});
  }
  builder.AddScale();
  return builder.Finish();
}

}  // namespace attnd::models
