// model_type gated_deltanet: the delta rule with one forget gate a head.
#include "models/mixers/gated_delta.h"

namespace attnd::models {

MixerOr MakeGatedDeltaNet(const MixerSource& source) {
  RecurrentBuilder builder(source);
  decode::RecurrentProgram& program = builder.program;
  ConfigReader config(source.config.json, "config.json");
  AddGatedDelta(config, {256, 6, 2}, builder);
  const bool gated = config.Flag("use_gate", true);
  const std::string activation = config.Text("output_gate_activation", "swish");
  if (activation != "swish" && activation != "silu" && activation != "sigmoid") {
    config.Fail("output_gate_activation", "swish, silu or sigmoid");
  }
  if (!config.status().ok()) return config.status();
  program.decay = Decay::kScalar;
  program.g = builder.AddPart("a_proj", program.heads);
  AddGates(1, 0, builder);
  program.norm_group = program.value_size;
  program.norm = builder.weights.Vector("o_norm.weight", {program.value_size});
  if (gated) {
    program.gate = builder.AddPart("g_proj", program.heads * program.value_size);
    program.gate_kind = activation == "sigmoid" ? decode::RecurrentProgram::Gate::kSigmoid
                                                : decode::RecurrentProgram::Gate::kSilu;
  }
  return builder.Finish();
}

}  // namespace attnd::models
