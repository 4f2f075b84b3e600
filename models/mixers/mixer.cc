#include "models/mixers/mixer.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "models/config_reader.h"

namespace attnd::models {
namespace {

struct ModelType {
  absl::string_view name;
  MixerOr (*make)(const MixerSource&);
};

// model_type transformer: every layer is softmax, with its settings at the top of the config.
MixerOr MakeTransformer(const MixerSource& source) {
  ConfigReader config(source.config.json, "config.json");
  AttentionSpec spec;
  spec.heads = config.Positive("num_heads", 32);
  spec.kv_heads = config.Positive("num_kv_heads", spec.heads);
  spec.qkv_bias = config.Flag("qkv_bias", false);
  spec.qk_norm = config.Flag("qk_norm", false);
  spec.window = config.Positive("window_size", 0);
  spec.rope_theta = config.Real("rope_theta", 10000);
  if (source.config.hidden_size % spec.heads != 0) {
    config.Fail("num_heads", absl::StrCat("a divisor of hidden_size ", source.config.hidden_size));
  }
  if (spec.heads % spec.kv_heads != 0) {
    config.Fail("num_kv_heads", absl::StrCat("a divisor of num_heads ", spec.heads));
  }
  if (!config.status().ok()) return config.status();
  return MakeSoftmaxAttention(source, spec);
}

constexpr ModelType kTypes[] = {
    {"based", MakeBased},
    {"delta_net", MakeDeltaNet},
    {"gated_deltanet", MakeGatedDeltaNet},
    {"gla", MakeGla},
    {"hgrn2", MakeHgrn2},
    {"kda", MakeKda},
    {"lightning_attn", MakeLightningAttention},
    {"linear_attn", MakeLinearAttention},
    {"mamba2", MakeMamba2},
    {"mla", MakeLatentAttention},
    {"retnet", MakeRetention},
    {"transformer", MakeTransformer},
};

}  // namespace

MixerOr MakeMixer(const MixerSource& source) {
  const auto& spec = source.config.attention[static_cast<size_t>(source.layer)];
  if (spec.has_value()) return MakeSoftmaxAttention(source, *spec);
  std::string known;
  for (const ModelType& type : kTypes) {
    if (type.name == source.config.model_type) return type.make(source);
    absl::StrAppend(&known, known.empty() ? "" : ", ", type.name);
  }
  return absl::InvalidArgumentError(absl::StrCat("config.json: model_type: given \"",
                                                 source.config.model_type, "\", expected one of ",
                                                 known));
}

}  // namespace attnd::models
