#include "kernels/cores/feature_maps.h"

#include <cstdlib>
#include <cstring>
#include <iostream>
#include <numbers>

#include "kernels/primitives/cpu/vector_math.h"

namespace attnd {
namespace {

// Keeps a ReLU feature from being zero in every channel (Wu et al., "Flowformer", 2022).
constexpr double kReluFloor = 1e-6;

constexpr double kRootOfHalf = std::numbers::sqrt2 / 2;

Array Taylor(const Array& x) {
  if (!x.defined()) return {};
  const Dims& shape = x.tensor().shape();
  Dims one = shape, squares = shape;
  one.back() = 1;
  squares.back() *= squares.back();
  const Array pairs = (x.Unsqueeze(-1) * x.Unsqueeze(-2) * kRootOfHalf).Reshape(squares);
  return Concat(Concat(x.composer()->Full(one, 1), x, -1), pairs, -1);
}

}  // namespace

FeatureMap FeatureMapFromName(absl::string_view name) {
  if (name == "identity") return FeatureMap::kIdentity;
  if (name == "elu1") return FeatureMap::kElu1;
  if (name == "relu") return FeatureMap::kRelu;
  if (name == "relu2") return FeatureMap::kRelu2;
  if (name == "relu_eps") return FeatureMap::kReluEps;
  if (name == "silu") return FeatureMap::kSilu;
  if (name == "exp") return FeatureMap::kExp;
  if (name == "sigmoid") return FeatureMap::kSigmoid;
  if (name == "softmax") return FeatureMap::kSoftmax;
  std::cerr << "attnd: bug: there is no feature map '" << name << "'" << std::endl;
  std::abort();
}

int64_t FeatureSize(FeatureMap map, int64_t size) {
  return map == FeatureMap::kTaylor ? 1 + size + size * size : size;
}

Array Apply(FeatureMap map, const Array& x) {
  switch (map) {
    case FeatureMap::kIdentity:
      return x;
    case FeatureMap::kElu1:
      return Apply(UnaryOp::kElu1, x);
    case FeatureMap::kRelu:
      return Apply(UnaryOp::kRelu, x);
    case FeatureMap::kRelu2:
      return Apply(UnaryOp::kSquare, Apply(UnaryOp::kRelu, x));
    case FeatureMap::kReluEps:
      return Apply(UnaryOp::kRelu, x) + kReluFloor;
    case FeatureMap::kSilu:
      return Silu(x);
    case FeatureMap::kExp:
      return Exp(x);
    case FeatureMap::kSigmoid:
      return Sigmoid(x);
    case FeatureMap::kSoftmax: {
      // Softmax() gives zeros for a row of -inf, as attention wants them; a feature has no mask.
      const Array e = Exp(x - Max(x, -1));
      return e / Sum(e, -1);
    }
    case FeatureMap::kTaylor:
      return Taylor(x);
  }
  return x;
}

namespace cpu {
namespace {

void TaylorRow(const float* x, int64_t width, float* features) {
  *features++ = 1.0f;
  std::memcpy(features, x, static_cast<size_t>(width) * sizeof(float));
  for (int64_t i = 0; i < width; ++i) {
    features += width;
    std::memcpy(features, x, static_cast<size_t>(width) * sizeof(float));
    ScaleRow(features, x[i] * static_cast<float>(kRootOfHalf), width);
  }
}

void ApplyInPlace(FeatureMap map, float* rows, int64_t n_rows, int64_t width) {
  const int64_t n = n_rows * width;
  switch (map) {
    case FeatureMap::kTaylor:
    case FeatureMap::kIdentity:
      return;
    case FeatureMap::kElu1:
      return Elu1Row(rows, n);
    case FeatureMap::kRelu:
      return ReluRow(rows, n);
    case FeatureMap::kRelu2:
      ReluRow(rows, n);
      return MulRow(rows, rows, rows, n);
    case FeatureMap::kReluEps:
      ReluRow(rows, n);
      for (int64_t i = 0; i < n; ++i) rows[i] += static_cast<float>(kReluFloor);
      return;
    case FeatureMap::kSilu:
      return SiluRow(rows, n);
    case FeatureMap::kExp:
      return ExpRow(rows, n);
    case FeatureMap::kSigmoid:
      return SigmoidRow(rows, n);
    case FeatureMap::kSoftmax:
      for (int64_t i = 0; i < n_rows; ++i) {
        float* row = rows + i * width;
        const float sum = ExpShiftedRow(row, MaxRow(row, width), row, width);
        ScaleRow(row, 1 / sum, width);
      }
      return;
  }
}

}  // namespace

void ApplyRows(FeatureMap map, const float* rows, int64_t n_rows, int64_t width, float* features) {
  if (map == FeatureMap::kTaylor) {
    const int64_t size = FeatureSize(map, width);
    for (int64_t i = 0; i < n_rows; ++i) TaylorRow(rows + i * width, width, features + i * size);
    return;
  }
  if (features != rows) {
    std::memcpy(features, rows, static_cast<size_t>(n_rows * width) * sizeof(float));
  }
  ApplyInPlace(map, features, n_rows, width);
}

void TaylorKernelRow(float* s, int64_t n) {
  for (int64_t i = 0; i < n; ++i) s[i] = 1.0f + s[i] * (1.0f + 0.5f * s[i]);
}

}  // namespace cpu
}  // namespace attnd
