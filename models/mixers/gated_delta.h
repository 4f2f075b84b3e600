// What Gated DeltaNet and KDA share: head sizes, convolutions, normalised queries and keys, write
// strengths, and gates -exp(A_log) softplus(x + dt_bias).
#ifndef ATTND_MODELS_MIXERS_GATED_DELTA_H_
#define ATTND_MODELS_MIXERS_GATED_DELTA_H_

#include "models/config_reader.h"
#include "models/mixers/recurrent_mixer.h"

namespace attnd::models {

class GatedDeltaMixer : public RecurrentMixer {
 protected:
  using RecurrentMixer::RecurrentMixer;

  // head_dim, num_heads, num_v_heads, expand_v, use_short_conv, conv_size, allow_neg_eigval; adds
  // q, k, v and b_proj.
  void ReadShared(ConfigReader& config, int64_t head_dim, int64_t heads, double expand_v);

  void Features(int64_t position, const float* x, float* row) const final;
  // A gate for each of `count` raw values x of one head.
  void GateHead(int64_t head, const float* x, int64_t count, float* g) const;
  void FillBeta(const float* row, float* beta) const;

  Floats decay_rate_;       // exp(A_log) [heads]
  Floats dt_bias_;          // [heads * count]
  double lower_bound_ = 0;  // Below 0: the gate is lower_bound sigmoid(exp(A_log) (x + dt_bias)).

 private:
  Part beta_;
  bool silu_ = false;
  float strength_ = 1;
};

}  // namespace attnd::models

#endif  // ATTND_MODELS_MIXERS_GATED_DELTA_H_
