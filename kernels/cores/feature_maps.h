// Feature maps phi of linear attention: one list, each map in two forms that agree: a function on
// arrays, for composed definitions, and a function on rows of float32, for CPU kernels.
// All but kTaylor keep the size of a row.
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
  // [1, x_i, x_i x_j / sqrt 2], i and j in row-major order: phi(x)·phi(y) = 1 + x·y + (x·y)^2 / 2,
  // the start of e^(x·y) (Arora et al., "Simple linear attention language models balance the
  // recall-throughput tradeoff", 2024).
  kTaylor,
};

// "identity", "elu1", "relu", "relu2", "relu_eps", "silu", "exp", "sigmoid", "softmax". Aborts on
// any other name: schemas list the names that an operator takes.
FeatureMap FeatureMapFromName(absl::string_view name);

// Features of a row of `size` values: size, or 1 + size + size^2 for kTaylor.
int64_t FeatureSize(FeatureMap map, int64_t size);

// phi(x); the last axis is the head size.
Array Apply(FeatureMap map, const Array& x);

namespace cpu {

// features[i] = phi(rows[i]); rows float32 [n_rows, width], features [n_rows, FeatureSize(map,
// width)], contiguous. In place is legal for maps that keep the size.
void ApplyRows(FeatureMap map, const float* rows, int64_t n_rows, int64_t width, float* features);

// s[i] = 1 + s[i] + s[i]^2 / 2: from x·y to phi(x)·phi(y) of kTaylor, without the features.
void TaylorKernelRow(float* s, int64_t n);

}  // namespace cpu
}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_FEATURE_MAPS_H_
