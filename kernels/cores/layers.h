// Layers around attention whose weights are a call's inputs.
#ifndef ATTND_KERNELS_CORES_LAYERS_H_
#define ATTND_KERNELS_CORES_LAYERS_H_

#include "kernels/primitives/composer.h"

namespace attnd {

// x [..,C], weight [D,C], bias [D] or undefined -> weight x + bias, [..,D].
inline Array Dense(const Array& x, const Array& weight, const Array& bias = {}) {
  const Array y = MatMul(x, weight.T());
  return bias.defined() ? y + bias : y;
}

// (x - mean) / sqrt(variance + eps) * weight + bias over the last axis, the variance biased (Ba et
// al., "Layer Normalization", 2016).
inline Array LayerNorm(const Array& x, const Array& weight, const Array& bias, double eps) {
  if (!x.defined()) return {};
  const auto size = static_cast<double>(x.dim(-1));
  const Array centred = x - Sum(x, -1) / size;
  const Array variance = Sum(Apply(UnaryOp::kSquare, centred), -1) / size;
  return centred / Sqrt(variance + eps) * weight + bias;
}

// The same per channel of the last axis, with the statistics given, all [C] (Ioffe and Szegedy,
// "Batch Normalization", 2015).
inline Array BatchNorm(const Array& x, const Array& weight, const Array& bias, const Array& mean,
                       const Array& variance, double eps) {
  return (x - mean) / Sqrt(variance + eps) * weight + bias;
}

}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_LAYERS_H_
