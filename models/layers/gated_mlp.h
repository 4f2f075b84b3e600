// SwiGLU: down(silu(gate x) * up x).
#ifndef ATTND_MODELS_LAYERS_GATED_MLP_H_
#define ATTND_MODELS_LAYERS_GATED_MLP_H_

#include <cstdint>

#include "models/layers/weights.h"

namespace attnd::models {

class GatedMlp {
 public:
  // gate_proj, up_proj [inner, outer], down_proj [outer, inner].
  GatedMlp(WeightReader& weights, int64_t outer, int64_t inner);

  // y = mlp(x), rows [rows, outer]; x and y may be the same.
  void Run(const float* x, int64_t rows, float* y) const;

  const cpu::PackedMatrix& gate_up() const { return gate_up_; }
  const cpu::PackedMatrix& down() const { return down_; }

 private:
  int64_t inner_;
  cpu::PackedMatrix gate_up_;
  cpu::PackedMatrix down_;
};

}  // namespace attnd::models

#endif  // ATTND_MODELS_LAYERS_GATED_MLP_H_
