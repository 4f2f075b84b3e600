// model_type kda: the delta rule with a forget gate per key channel, from a low-rank projection.
#include "models/mixers/gated_delta.h"

namespace attnd::models {

MixerOr MakeKda(const MixerSource& source) {
  RecurrentBuilder builder(source);
  decode::RecurrentProgram& program = builder.program;
  ConfigReader config(source.config.json, "config.json");
  AddGatedDelta(config, {128, 16, 1}, builder);
  const double lower_bound = config.Real("lower_bound", 0);
  if (lower_bound > 0) config.Fail("lower_bound", "a number below 0");
  if (!config.status().ok()) return config.status();
  const int64_t rank = program.value_size;
  const RowSpan raw = builder.AddPart("f_proj.0", rank);
  const RowSpan low_gate = builder.AddPart("g_proj.0", rank);
  program.decay = Decay::kVector;
  program.g = builder.AddRoom(program.heads * program.key_size);
  builder.AddOp({.kind = RowOpKind::kProject,
                 .at = raw,
                 .to = program.g,
                 .matrix = builder.weights.SharedMatrix("f_proj.1", program.g.size, rank)});
  AddGates(program.key_size, lower_bound, builder);
  program.gate = builder.AddRoom(program.heads * program.value_size);
  program.gate_kind = decode::RecurrentProgram::Gate::kSigmoid;
  builder.AddOp({.kind = RowOpKind::kProject,
                 .at = low_gate,
                 .to = program.gate,
                 .matrix = builder.weights.SharedMatrix("g_proj.1", program.gate.size, rank)});
  builder.AddOp({.kind = RowOpKind::kAdd,
                 .at = program.gate,
                 .v = builder.weights.Vector("g_proj.1.bias", {program.gate.size})});
  program.norm_group = program.value_size;
  program.norm = builder.weights.Vector("o_norm.weight", {program.value_size});
  return builder.Finish();
}

}  // namespace attnd::models
