// model_type mamba2: a state-space model with one decay per head (Dao and Gu, "Transformers are
// SSMs", 2024). In the recurrence's terms C is the query, B the key, dt x the value and exp(dt a)
// the decay.
//
//   [z, x, B, C, dt] = W x;  x, B, C = silu(conv(x, B, C));  dt = clamp(softplus(dt + dt_bias))
//   S = exp(-exp(A_log) dt) S + B (dt x)^T,  y = S^T C + D x,  o = W_o RMSNorm(y silu(z))
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "models/mixers/recurrent_mixer.h"

namespace attnd::models {
namespace {

void ReadSizes(int64_t hidden, ConfigReader& config, decode::RecurrentProgram& program) {
  program.value_size = config.Positive("head_dim", 64);
  program.key_size = config.Positive("state_size", 128);
  const double expand = config.Real("expand", 2);
  const auto inner = static_cast<int64_t>(static_cast<double>(hidden) * expand);
  if (inner < 1 || inner % program.value_size != 0) {
    config.Fail("expand",
                absl::StrCat("hidden_size times it a multiple of head_dim ", program.value_size));
    return;
  }
  program.heads = program.value_heads = inner / program.value_size;
  if (config.Positive("num_heads", program.heads) != program.heads) {
    config.Fail("num_heads", absl::StrCat("hidden_size expand / head_dim, ", program.heads));
  }
  program.query_heads = program.key_heads = config.Positive("n_groups", 1);
  if (program.heads % program.key_heads != 0) {
    config.Fail("n_groups", absl::StrCat("a divisor of the heads, ", program.heads));
  }
}

// dt_limit: two numbers, of which Infinity is written in more than one way.
void ReadLimits(const nlohmann::json& json, ConfigReader& config, RowOp& step) {
  step.a = 0;
  step.b = std::numeric_limits<float>::infinity();
  if (!config.has("dt_limit")) return;
  const nlohmann::json& limits = json["dt_limit"];
  bool good = limits.is_array() && limits.size() == 2 && limits[0].is_number();
  if (good) {
    step.a = limits[0].get<float>();
    nlohmann::json most = limits[1];
    if (most.is_object()) most = most.value("__float__", "");
    good = most.is_number() || most == "Infinity";
    if (most.is_number()) step.b = most.get<float>();
  }
  if (!good || step.a > step.b) config.Fail("dt_limit", "two numbers, the smaller one first");
}

}  // namespace

MixerOr MakeMamba2(const MixerSource& source) {
  RecurrentBuilder builder(source);
  decode::RecurrentProgram& program = builder.program;
  ConfigReader config(source.config.json, "config.json");
  RowOp step{.kind = RowOpKind::kStepGate, .at = {}};
  ReadSizes(source.config.hidden_size, config, program);
  ReadLimits(source.config.json, config, step);
  const int64_t taps = config.Positive("conv_kernel", 4);
  const bool bias = config.Flag("use_bias", false);
  const bool conv_bias = config.Flag("use_conv_bias", true);
  const bool by_channel = config.Flag("D_has_hdim", false);
  const bool norm = config.Flag("rmsnorm", true);
  program.gate_first = !config.Flag("norm_before_gate", false);
  if (!config.status().ok()) return config.status();

  const int64_t heads = program.heads, inner = heads * program.value_size;
  const int64_t keys = program.key_heads * program.key_size;
  builder.AddPart("in_proj", 2 * inner + 2 * keys + heads);
  program.gate = {0, inner};
  program.gate_kind = decode::RecurrentProgram::Gate::kSilu;
  program.skipped = {inner, inner};
  program.k = {2 * inner, keys};
  program.q = {2 * inner + keys, keys};
  program.v = builder.AddRoom(inner);
  program.decay = Decay::kScalar;
  program.g = builder.AddRoom(heads);
  builder.AddConvolution("conv1d", {inner, inner + 2 * keys}, taps, conv_bias, true);
  WeightReader& weights = builder.weights;
  step.at = {2 * inner + 2 * keys, heads};
  step.to = program.g;
  step.v = weights.Vector("dt_bias", {heads});
  step.w = weights.Vector("A_log", {heads});
  for (float& rate : step.w) rate = std::exp(rate);
  // v = dt x.
  const RowSpan dt = step.at;
  builder.AddOp(std::move(step));
  builder.AddOp({.kind = RowOpKind::kRepeat, .at = program.skipped, .to = program.v, .a = 1});
  builder.AddOp({.kind = RowOpKind::kScaleHeads, .at = program.v, .to = dt, .parts = heads});
  const Floats skip = weights.Vector("D", {by_channel ? inner : heads});
  const int64_t repeats = by_channel ? 1 : program.value_size;
  for (const float d : skip) {
    program.skip.insert(program.skip.end(), static_cast<size_t>(repeats), d);
  }
  if (norm) {
    program.norm_group = inner / program.key_heads;
    program.norm = weights.Vector("norm.weight", {inner});
  }
  return builder.Finish("out_proj", bias);
}

}  // namespace attnd::models
