// What Gated DeltaNet and KDA share: head sizes, convolutions, normalised queries and keys, write
// strengths, and gates -exp(A_log) softplus(x + dt_bias).
#ifndef ATTND_MODELS_MIXERS_GATED_DELTA_H_
#define ATTND_MODELS_MIXERS_GATED_DELTA_H_

#include "models/config_reader.h"
#include "models/mixers/recurrent_mixer.h"

namespace attnd::models {

struct GatedDeltaDefaults {
  int64_t head_dim;
  int64_t heads;
  double expand_v;
};

// head_dim, num_heads, num_v_heads, expand_v, use_short_conv, conv_size, allow_neg_eigval: adds q,
// k, v, b_proj and what is done with them. Errors are the readers'.
void AddGatedDelta(ConfigReader& config, const GatedDeltaDefaults& defaults,
                   RecurrentBuilder& builder);

// The gates at program.g, from raw values there: `count` for each head. `lower_bound` below 0:
// lower_bound sigmoid(exp(A_log) (x + dt_bias)).
void AddGates(int64_t count, double lower_bound, RecurrentBuilder& builder);

}  // namespace attnd::models

#endif  // ATTND_MODELS_MIXERS_GATED_DELTA_H_
