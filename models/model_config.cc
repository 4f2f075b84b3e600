#include "models/model_config.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "models/config_reader.h"

namespace attnd::models {
namespace {

using Json = nlohmann::json;

// One entry of `attn`: its layers become softmax layers.
absl::Status ReadAttention(const Json& json, const std::string& where, ModelConfig& config) {
  ConfigReader reader(json, where);
  AttentionSpec spec;
  spec.heads = reader.Required("num_heads");
  spec.kv_heads = reader.Positive("num_kv_heads", spec.heads);
  spec.qkv_bias = reader.Flag("qkv_bias", false);
  spec.qk_norm = reader.Flag("qk_norm", false);
  spec.window = reader.Positive("window_size", 0);
  spec.rope_theta = reader.Real("rope_theta", 10000);
  if (spec.rope_theta <= 0) reader.Fail("rope_theta", "a number above 0");
  if (config.hidden_size % spec.heads != 0) {
    reader.Fail("num_heads", absl::StrCat("a divisor of hidden_size ", config.hidden_size));
  }
  if (spec.heads % spec.kv_heads != 0) {
    reader.Fail("num_kv_heads", absl::StrCat("a divisor of num_heads ", spec.heads));
  }
  if (!reader.has("layers")) reader.Fail("layers", "a list of integers");
  for (const int64_t layer : reader.Integers("layers")) {
    if (layer < 0 || layer >= config.layers) {
      reader.Fail("layers", absl::StrCat("indices in [0, ", config.layers, ")"));
    } else if (config.attention[static_cast<size_t>(layer)].has_value()) {
      reader.Fail("layers", absl::StrCat("every layer once; ", layer, " comes twice"));
    } else {
      config.attention[static_cast<size_t>(layer)] = spec;
    }
  }
  return reader.status();
}

absl::Status ReadHybrid(ModelConfig& config) {
  const Json& json = config.json;
  if (!json.contains("attn") || json["attn"].is_null()) return absl::OkStatus();
  const Json& attn = json["attn"];
  if (!attn.is_array()) return ReadAttention(attn, "config.json: attn", config);
  for (size_t i = 0; i < attn.size(); ++i) {
    absl::Status s = ReadAttention(attn[i], absl::StrCat("config.json: attn[", i, "]"), config);
    if (!s.ok()) return s;
  }
  return absl::OkStatus();
}

// hidden_ratio times the width, as a gated MLP of the same size: two thirds of it, in multiples of
// 256.
int64_t DefaultIntermediate(int64_t hidden, double ratio) {
  const auto wanted = static_cast<int64_t>(static_cast<double>(hidden) * ratio * 2 / 3);
  return (wanted + 255) / 256 * 256;
}

// Python writes numbers that are none of JSON's, as in "dt_limit": [0.0, Infinity]: here they
// become texts.
std::string QuoteNonFinite(absl::string_view text) {
  std::string quoted;
  bool inside = false;  // A text.
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '"') inside = !inside;
    if (inside && text[i] == '\\' && i + 1 < text.size()) quoted.push_back(text[i++]);
    absl::string_view found;
    for (const absl::string_view word : {"Infinity", "-Infinity", "NaN"}) {
      if (!inside && absl::StartsWith(text.substr(i), word)) found = word;
    }
    if (found.empty()) {
      quoted.push_back(text[i]);
    } else {
      absl::StrAppend(&quoted, "\"", found, "\"");
      i += found.size() - 1;
    }
  }
  return quoted;
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view text) {
  ModelConfig config;
  config.json = Json::parse(QuoteNonFinite(text), nullptr, /*allow_exceptions=*/false);
  if (config.json.is_discarded()) {
    return absl::InvalidArgumentError("config.json: given text that is no JSON");
  }
  ConfigReader reader(config.json, "config.json");
  config.model_type = reader.Text("model_type", "");
  if (config.model_type.empty()) reader.Fail("model_type", "a text");
  const bool mamba = config.model_type == "mamba2";
  if (mamba) {
    config.frame = {.root = "backbone.",
                    .mixer = "mixer",
                    .mixer_norm = "norm",
                    .final_norm = "norm_f",
                    .mlp = false};
  }
  config.hidden_size = reader.Required("hidden_size");
  config.layers = reader.Required("num_hidden_layers");
  config.vocab_size = reader.Positive("vocab_size", 32000);
  config.norm_eps = reader.Real("norm_eps", mamba ? 1e-5 : 1e-6);
  config.tied = reader.Flag("tie_word_embeddings", false);
  const double ratio = reader.Real("hidden_ratio", config.model_type == "retnet" ? 2 : 4);
  config.intermediate_size =
      reader.Positive("intermediate_size", DefaultIntermediate(config.hidden_size, ratio));
  if (reader.has("eos_token_id") && config.json["eos_token_id"].is_number_integer()) {
    config.eos_token = config.json["eos_token_id"].get<int64_t>();
  }
  // Two names of one function.
  if (!mamba || reader.Text("hidden_act", "silu") != "silu") reader.Only("hidden_act", "swish");
  reader.Only("attnres_block_size", nullptr);
  for (const absl::string_view pure : {"mamba2", "mla", "transformer"}) {
    if (config.model_type == pure) reader.Only("attn", nullptr);
  }
  if (!reader.status().ok()) return reader.status();
  config.attention.resize(static_cast<size_t>(config.layers));
  if (absl::Status s = ReadHybrid(config); !s.ok()) return s;
  return config;
}

}  // namespace attnd::models
