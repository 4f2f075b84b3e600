// What a language model is: its class's frame, and the keys of a checkpoint's config.json that all
// model classes share.
#ifndef ATTND_MODELS_MODEL_CONFIG_H_
#define ATTND_MODELS_MODEL_CONFIG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace attnd::models {

// A full or sliding-window softmax layer.
struct AttentionSpec {
  int64_t heads = 1;
  int64_t kv_heads = 1;
  bool qkv_bias = false;
  bool qk_norm = false;
  int64_t window = 0;  // A token sees itself and window - 1 before it; 0: all.
  double rope_theta = 10000;
};

// What the classes call the parts of a checkpoint, and what else sets one apart.
struct ModelFrame {
  std::string root = "model.";  // Of every name but the head's.
  std::string mixer = "attn", mixer_norm = "attn_norm", final_norm = "norm";
  bool mlp = true;  // A block is a mixer and an MLP, or a mixer alone.
};

// Keys as flash-linear-attention's models write them (fla-org/flash-linear-attention, fla/models,
// commit bc3b101d). Keys that choose between implementations of one function are ignored; those
// that change the function and are not built here are refused.
// json keeps its promises not to throw.
struct ModelConfig {  // NOLINT(bugprone-exception-escape)
  std::string model_type;
  ModelFrame frame;
  int64_t hidden_size = 0;
  int64_t layers = 0;
  int64_t vocab_size = 0;
  int64_t intermediate_size = 0;
  double norm_eps = 1e-6;
  bool tied = false;  // The head is the embedding.
  // By layer: softmax where `attn` lists it, else the model's own mixer.
  std::vector<std::optional<AttentionSpec>> attention;
  // End of text, -1: none.
  int64_t eos_token = -1;
  // All of it: mixers read their own keys.
  nlohmann::json json;
};

// INVALID_ARGUMENT naming the key, what was given and what is expected.
absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view text);

}  // namespace attnd::models

#endif  // ATTND_MODELS_MODEL_CONFIG_H_
