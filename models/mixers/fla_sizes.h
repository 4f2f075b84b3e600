// Sizes of mixers whose configs give widths as multiples of the hidden size.
#ifndef ATTND_MODELS_MIXERS_FLA_SIZES_H_
#define ATTND_MODELS_MIXERS_FLA_SIZES_H_

#include "kernels/decode/step_program.h"
#include "models/config_reader.h"
#include "models/model_config.h"

namespace attnd::models {

struct FlaDefaults {
  double expand_k;
  double expand_v;
  int64_t heads;
};

// From expand_k, expand_v, num_heads, num_kv_heads: K = hidden expand_k / heads, V likewise; keys
// and values of grouped heads are shared by consecutive queries. Sets head counts and sizes; errors
// are the reader's.
void ReadFlaSizes(ConfigReader& config, const ModelConfig& model, const FlaDefaults& defaults,
                  decode::RecurrentProgram& sizes);

}  // namespace attnd::models

#endif  // ATTND_MODELS_MIXERS_FLA_SIZES_H_
