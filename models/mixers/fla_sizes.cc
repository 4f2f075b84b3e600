#include "models/mixers/fla_sizes.h"

#include "absl/strings/str_cat.h"

namespace attnd::models {

void ReadFlaSizes(ConfigReader& config, const ModelConfig& model, const FlaDefaults& defaults,
                  decode::RecurrentProgram& sizes) {
  sizes.heads = sizes.query_heads = config.Positive("num_heads", defaults.heads);
  sizes.key_heads = sizes.value_heads = config.Positive("num_kv_heads", sizes.heads);
  const auto width = [&](const char* key, double otherwise) {
    const auto all =
        static_cast<int64_t>(static_cast<double>(model.hidden_size) * config.Real(key, otherwise));
    if (all < 1 || all % sizes.heads != 0) {
      config.Fail(key, absl::StrCat("hidden_size times it a multiple of num_heads ", sizes.heads));
      return int64_t{1};
    }
    return all / sizes.heads;
  };
  sizes.key_size = width("expand_k", defaults.expand_k);
  sizes.value_size = width("expand_v", defaults.expand_v);
  if (sizes.heads % sizes.key_heads != 0) {
    config.Fail("num_kv_heads", absl::StrCat("a divisor of num_heads ", sizes.heads));
    sizes.key_heads = sizes.value_heads = 1;
  }
}

}  // namespace attnd::models
