#include "models/mixers/gated_delta.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace attnd::models {

void AddGatedDelta(ConfigReader& config, const GatedDeltaDefaults& defaults,
                   RecurrentBuilder& builder) {
  decode::RecurrentProgram& program = builder.program;
  program.key_size = config.Positive("head_dim", defaults.head_dim);
  program.query_heads = program.key_heads = config.Positive("num_heads", defaults.heads);
  program.heads = program.value_heads = config.Positive("num_v_heads", program.query_heads);
  program.value_size = static_cast<int64_t>(static_cast<double>(program.key_size) *
                                            config.Real("expand_v", defaults.expand_v));
  if (program.value_size < 1) config.Fail("expand_v", "a number above 0");
  if (program.heads % program.query_heads != 0) {
    config.Fail("num_v_heads", absl::StrCat("a multiple of num_heads ", program.query_heads));
  }
  const double strength = config.Flag("allow_neg_eigval", false) ? 2 : 1;
  const bool conv = config.Flag("use_short_conv", true);
  const int64_t taps = config.Positive("conv_size", 4);
  const bool bias = config.Flag("conv_bias", false);
  if (!config.status().ok()) return;
  program.delta = true;
  builder.AddStreams("q_proj", "k_proj", "v_proj");
  program.beta = builder.AddPart("b_proj", program.heads);
  if (conv) builder.AddConvolutions("q_conv1d", "k_conv1d", "v_conv1d", taps, bias, true, true);
  for (const RowSpan& part : {program.q, program.k, program.v}) {
    if (conv) break;  // The activation is the convolutions'.
    builder.AddOp({.kind = RowOpKind::kMap, .at = part, .map = FeatureMap::kSilu});
  }
  for (const RowSpan& part : {program.q, program.k}) {
    builder.AddOp(
        {.kind = RowOpKind::kL2Norm, .at = part, .parts = program.query_heads, .a = 1e-6});
  }
  builder.AddStrength(strength);
  builder.AddScale();
}

void AddGates(int64_t count, double lower_bound, RecurrentBuilder& builder) {
  const decode::RecurrentProgram& program = builder.program;
  RowOp op{.kind = lower_bound < 0 ? RowOpKind::kBoundedGate : RowOpKind::kSoftplusGate,
           .at = program.g,
           .parts = program.heads,
           .a = lower_bound};
  op.v = builder.weights.Vector("dt_bias", {program.heads * count});
  op.w = builder.weights.Vector("A_log", {program.heads});
  for (float& rate : op.w) rate = std::exp(rate);
  builder.AddOp(std::move(op));
}

}  // namespace attnd::models
