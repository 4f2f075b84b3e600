// What a layer does to one projected row of a token, between its matrix products: feature maps,
// norms, rotary positions, gates. A list of small operations, so that a mixer states them once and
// both the CPU and a GPU walk it. A row's bits depend on that row and its position alone.
#ifndef ATTND_KERNELS_DECODE_ROW_OPS_H_
#define ATTND_KERNELS_DECODE_ROW_OPS_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "kernels/cores/feature_maps.h"
#include "kernels/primitives/cpu/ordered_product.h"

namespace attnd::decode {

// Consecutive floats of a row.
struct RowSpan {
  int64_t offset = 0;
  int64_t size = 0;
};

// x below is `at`, taken as `parts` equal parts (heads) x_h where h appears; results go to `to`
// where it is named, else back to `at`.
enum class RowOpKind : uint8_t {
  kMap,            // map(x), maps that keep the size
  kScale,          // a x
  kAdd,            // x + v
  kFill,           // v
  kL2Norm,         // x_h / sqrt(sum x_h^2 + a)
  kSumNorm,        // x_h / (sum x_h + a)
  kRmsNorm,        // x_h / sqrt(mean x_h^2 + a) * v, v of one part's size
  kRotate,         // pairs in halves of x_h by position * frequencies
  kProject,        // to_h = W x_h
  kHalvesProduct,  // to_h = first half of x_h times its second half
  kRepeat,         // every x_h copied to `a` consecutive parts of `to`
  kScaleHeads,     // x_h times value h of `to`
  kTaylorMap,   // to_h = 1, x_i, x_i x_j (j < i) and x_i^2 / sqrt 2 of x_h d^(-1/4), row by row in
                // i; d its size: products of features are 1 + s + s^2 / 2, s = q·k / sqrt d
  kLogSigmoid,  // max(ln sigmoid(x) / a, b)
  kSoftplusGate,  // -w_h softplus(x + v)
  kBoundedGate,   // a sigmoid(w_h (x + v))
  kStepGate,      // x = clamp(softplus(x + v), a, b), -w x to `to`
  kForgetGate,    // k = (1 - v) sigmoid(-x) to `at`, ln(1 - k) to `to` (forget_gate.h); no v: 0
};

struct RowOp {
  RowOpKind kind;
  RowSpan at;
  RowSpan to = {};
  int64_t parts = 1;
  FeatureMap map = FeatureMap::kIdentity;
  double a = 0, b = 0;
  std::vector<float> v = {}, w = {};
  std::vector<double> frequencies = {};
  std::shared_ptr<const cpu::PackedMatrix> matrix = nullptr;  // W
};

// Applies them in order to `row`, on this thread.
void RunRowOps(absl::Span<const RowOp> ops, int64_t position, float* row);

}  // namespace attnd::decode

#endif  // ATTND_KERNELS_DECODE_ROW_OPS_H_
