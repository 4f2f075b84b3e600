// model_type retnet: retention with rotary positions and a swish-gated output norm. The library's
// class reads use_short_conv and builds no convolutions: nor does this one.
#include <cmath>

#include "kernels/cores/rope.h"
#include "models/mixers/fla_sizes.h"
#include "models/mixers/recurrent_mixer.h"

namespace attnd::models {

MixerOr MakeRetention(const MixerSource& source) {
  RecurrentBuilder builder(source);
  decode::RecurrentProgram& program = builder.program;
  ConfigReader config(source.config.json, "config.json");
  ReadFlaSizes(config, source.config, {1.0, 2.0, 8}, program);
  config.Only("feature_map", nullptr);
  const int64_t K = program.key_size;
  if (K % 2 != 0) config.Fail("expand_k", "an even head size, for rotary positions");
  if (!config.status().ok()) return config.status();
  builder.AddStreams("q_proj", "k_proj", "v_proj");
  builder.AddGatedNorm(config, "g_norm_swish_gate.weight", "g_norm.weight");
  if (!config.status().ok()) return config.status();

  program.decay = Decay::kScalar;
  program.g = builder.AddRoom(program.heads);
  // Each head forgets at its own rate: 1 - 2^-(5 + h).
  Floats decays;
  for (int64_t h = 0; h < program.heads; ++h) {
    decays.push_back(static_cast<float>(std::log1p(-std::exp2(-5.0 - static_cast<double>(h)))));
  }
  const std::vector<double> frequencies = RopeFrequencies(RopePairs::kHalf, K, 10000);
  builder.AddOp({.kind = RowOpKind::kRotate,
                 .at = program.q,
                 .parts = program.query_heads,
                 .frequencies = frequencies});
  builder.AddOp({.kind = RowOpKind::kRotate,
                 .at = program.k,
                 .parts = program.key_heads,
                 .frequencies = frequencies});
  builder.AddOp({.kind = RowOpKind::kFill, .at = program.g, .v = decays});
  builder.AddScale();
  return builder.Finish();
}

}  // namespace attnd::models
