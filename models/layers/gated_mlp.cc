#include "models/layers/gated_mlp.h"

#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"

namespace attnd::models {

GatedMlp::GatedMlp(WeightReader& weights, int64_t outer, int64_t inner)
    : inner_(inner),
      gate_up_(weights.Stack({{"gate_proj", inner}, {"up_proj", inner}}, outer)),
      down_(weights.Matrix("down_proj", outer, inner)) {}

void GatedMlp::Run(const float* x, int64_t rows, float* y) const {
  cpu::Scratch scratch;
  float* both = scratch.Take<float>(rows * 2 * inner_);
  float* inner = scratch.Take<float>(rows * inner_);
  gate_up_.Multiply(x, rows, both);
  cpu::ParallelFor(rows, 20.0 * static_cast<double>(rows * inner_), [&](int64_t r) {
    float* gate = both + r * 2 * inner_;
    cpu::SiluRow(gate, inner_);
    cpu::MulRow(gate, gate + inner_, inner + r * inner_, inner_);
  });
  down_.Multiply(inner, rows, y);
}

}  // namespace attnd::models
