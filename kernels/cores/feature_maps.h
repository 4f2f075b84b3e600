// Feature maps phi of linear attention: one list, each map in two forms that agree: a function on
// arrays, for composed definitions, and a function on rows of float32, for CPU kernels.
#ifndef ATTND_KERNELS_CORES_FEATURE_MAPS_H_
#define ATTND_KERNELS_CORES_FEATURE_MAPS_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "kernels/primitives/composer.h"

namespace attnd {

enum class FeatureMap : uint8_t {
  kIdentity,  // x
  kElu1,      // x + 1 for x > 0, else e^x
  kRelu,      // max(x, 0)
  kRelu2,     // max(x, 0)^2
  kReluEps,   // max(x, 0) + 1e-6
  kSilu,      // x / (1 + e^-x)
  kExp,       // e^x
  kSigmoid,   // 1 / (1 + e^-x)
  kSoftmax,   // over the last axis
};

// "identity", "elu1", "relu", "relu2", "relu_eps", "silu", "exp", "sigmoid", "softmax". Aborts on
// any other name: schemas list the names that an operator takes.
FeatureMap FeatureMapFromName(absl::string_view name);

// phi(x); the last axis is the head size.
Array Apply(FeatureMap map, const Array& x);

namespace cpu {

// rows[i] = phi(rows[i]) in place; rows float32 [n_rows, width], contiguous.
void ApplyRows(FeatureMap map, float* rows, int64_t n_rows, int64_t width);

}  // namespace cpu
}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_FEATURE_MAPS_H_
