// model_type lightning_attn: linear attention with one constant decay per head and layer (Qin et
// al., "Various Lengths, Constant Speed", 2024): the layer of TNL in the frame of the other
// classes.
//
//   q, k, v = silu(W x);  S = e^g S + k v^T,  o = S^T q;  y = W_o (RMSNorm(o) sigmoid(W_1 W_0 x))
#include "absl/strings/str_cat.h"
#include "kernels/cores/slopes.h"
#include "models/mixers/recurrent_mixer.h"

namespace attnd::models {

MixerOr MakeLightningAttention(const MixerSource& source) {
  RecurrentBuilder builder(source);
  decode::RecurrentProgram& program = builder.program;
  ConfigReader config(source.config.json, "config.json");
  const int64_t hidden = source.config.hidden_size;
  const int64_t heads = config.Positive("num_heads", 8);
  if (hidden % heads != 0) {
    config.Fail("num_heads", absl::StrCat("a divisor of hidden_size ", hidden));
  }
  const std::string decay = config.Text("decay", "alibi");
  if (decay != "alibi" && decay != "linear" && decay != "none") {
    config.Fail("decay", "alibi, linear or none");
  }
  if (!config.status().ok()) return config.status();
  program.heads = program.query_heads = program.key_heads = program.value_heads = heads;
  program.key_size = program.value_size = hidden / heads;
  builder.AddStreams("q_proj", "k_proj", "v_proj");
  const RowSpan low = builder.AddPart("g_proj.0", program.value_size);
  program.gate = builder.AddRoom(hidden);
  program.gate_kind = decode::RecurrentProgram::Gate::kSigmoid;
  program.norm_group = hidden;

  for (const RowSpan& part : {program.q, program.k, program.v}) {
    builder.AddOp({.kind = RowOpKind::kMap, .at = part, .map = FeatureMap::kSilu});
  }
  builder.AddOp({.kind = RowOpKind::kProject,
                 .at = low,
                 .to = program.gate,
                 .matrix = builder.weights.SharedMatrix("g_proj.1", hidden, program.value_size)});
  if (decay != "none") {
    program.decay = Decay::kScalar;
    program.g = builder.AddRoom(heads);
    Floats decays;
    for (const double g : LayerDecays(decay, heads, source.layer, source.config.layers)) {
      decays.push_back(static_cast<float>(g));
    }
    builder.AddOp({.kind = RowOpKind::kFill, .at = program.g, .v = std::move(decays)});
  }
  return builder.Finish();
}

}  // namespace attnd::models
