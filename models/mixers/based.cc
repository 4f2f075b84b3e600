// model_type based: normalised linear attention whose feature map is the second-order Taylor
// polynomial of exp (Arora et al., "Simple linear attention language models balance the
// recall-throughput tradeoff", 2024). Parameters are those of flash-linear-attention's layer
// BasedLinearAttention.
#include "absl/strings/str_cat.h"
#include "models/mixers/recurrent_mixer.h"

namespace attnd::models {
namespace {

// Of the library's causal kernel: the layer's own `eps` is that of other forms.
constexpr double kEps = 1e-6;

}  // namespace

MixerOr MakeBased(const MixerSource& source) {
  RecurrentBuilder builder(source);
  decode::RecurrentProgram& program = builder.program;
  ConfigReader config(source.config.json, "config.json");
  const int64_t hidden = source.config.hidden_size;
  const int64_t heads = config.Positive("num_heads", 12);
  const int64_t size = config.Positive("feature_dim", 16);
  config.Only("feature_name", "taylor_exp");
  config.Only("causal", true);
  if (config.Positive("num_key_value_heads", heads) != heads) {
    config.Fail("num_key_value_heads", absl::StrCat("num_heads, ", heads));
  }
  if (hidden % heads != 0) {
    config.Fail("num_heads", absl::StrCat("a divisor of hidden_size ", hidden));
  }
  if (!config.status().ok()) return config.status();
  program.heads = program.query_heads = program.key_heads = program.value_heads = heads;
  program.value_size = hidden / heads;
  // 1, x_i, x_i x_j for j <= i.
  program.key_size = 1 + size + size * (size + 1) / 2;
  program.normalise = true;
  program.dots_eps = kEps;
  const RowSpan plain_q = builder.AddPart("q_proj", heads * size);
  const RowSpan plain_k = builder.AddPart("k_proj", heads * size);
  program.v = builder.AddPart("v_proj", hidden);
  program.q = builder.AddRoom(heads * program.key_size);
  program.k = builder.AddRoom(heads * program.key_size);
  for (const auto& [from, to] : {std::pair{plain_q, program.q}, {plain_k, program.k}}) {
    builder.AddOp({.kind = RowOpKind::kTaylorMap, .at = from, .to = to, .parts = heads});
  }
  return builder.Finish();
}

}  // namespace attnd::models
