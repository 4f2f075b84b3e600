// Root-mean-square normalisation of rows (Zhang and Sennrich, "Root Mean Square Layer
// Normalization", 2019).
#ifndef ATTND_KERNELS_CORES_RMS_NORM_H_
#define ATTND_KERNELS_CORES_RMS_NORM_H_

#include "kernels/primitives/composer.h"

namespace attnd {

// x / sqrt(mean x^2 + eps) * weight over the last axis; weight [n], or undefined: 1.
inline Array RmsNorm(const Array& x, const Array& weight, double eps) {
  if (!x.defined()) return {};
  const Array squares = Sum(Apply(UnaryOp::kSquare, x), -1) / static_cast<double>(x.dim(-1));
  const Array normalised = x / Sqrt(squares + eps);
  return weight.defined() ? normalised * weight : normalised;
}

}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_RMS_NORM_H_
