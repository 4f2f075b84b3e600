#include "kernels/decode/row_ops.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/cores/forget_gate.h"
#include "kernels/cores/rope.h"
#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"

namespace attnd::decode {
namespace {

// Without overflow.
float Softplus(float x) { return std::max(x, 0.0f) + std::log1p(std::exp(-std::abs(x))); }

void Rotate(const RowOp& op, int64_t position, float* x) {
  const auto half = static_cast<int64_t>(op.frequencies.size());
  cpu::Scratch scratch;
  float* cos = scratch.Take<float>(half);
  float* sin = scratch.Take<float>(half);
  cpu::RopeRow(op.frequencies, static_cast<double>(position), cos, sin);
  for (int64_t h = 0; h < op.parts; ++h) {
    cpu::RotateRow(RopePairs::kHalf, cos, sin, 2 * half, x + h * 2 * half);
  }
}

void RmsNormPart(const RowOp& op, float* x, int64_t n) {
  const double mean = static_cast<double>(cpu::DotRow(x, x, n)) / static_cast<double>(n);
  cpu::ScaleRow(x, static_cast<float>(1 / std::sqrt(mean + op.a)), n);
  if (!op.v.empty()) cpu::MulRow(x, op.v.data(), x, n);
}

// The two halves of the symmetric x_i x_j are one feature, of twice the weight.
void TaylorPart(const float* x, int64_t n, float* features) {
  cpu::Scratch scratch;
  float* scaled = scratch.Take<float>(n);
  std::copy_n(x, n, scaled);
  cpu::ScaleRow(scaled, static_cast<float>(1 / std::sqrt(std::sqrt(static_cast<double>(n)))), n);
  *features++ = 1;
  std::copy_n(scaled, n, features);
  features += n;
  for (int64_t i = 0; i < n; ++i) {
    std::copy_n(scaled, i + 1, features);
    cpu::ScaleRow(features, scaled[i], i + 1);
    features[i] *= static_cast<float>(1 / std::numbers::sqrt2);
    features += i + 1;
  }
}

void RunOp(const RowOp& op, int64_t position, float* row) {
  const int64_t n = op.at.size, part = n / op.parts;
  float* x = row + op.at.offset;
  float* to = row + op.to.offset;
  const auto each = [&](auto&& body) {
    for (int64_t h = 0; h < op.parts; ++h) body(x + h * part, h);
  };
  switch (op.kind) {
    case RowOpKind::kMap:
      return cpu::ApplyRows(op.map, x, op.parts, part, x);
    case RowOpKind::kScale:
      return cpu::ScaleRow(x, static_cast<float>(op.a), n);
    case RowOpKind::kAdd:
      return cpu::AddRow(x, op.v.data(), x, n);
    case RowOpKind::kFill:
      std::copy(op.v.begin(), op.v.end(), x);
      return;
    case RowOpKind::kL2Norm:
      return each([&](float* head, int64_t) {
        const double sum = cpu::DotRow(head, head, part);
        cpu::ScaleRow(head, static_cast<float>(1 / std::sqrt(sum + op.a)), part);
      });
    case RowOpKind::kSumNorm:
      return each([&](float* head, int64_t) {
        cpu::ScaleRow(head, 1 / (cpu::SumRow(head, part) + static_cast<float>(op.a)), part);
      });
    case RowOpKind::kRmsNorm:
      return each([&](float* head, int64_t) { RmsNormPart(op, head, part); });
    case RowOpKind::kRotate:
      return Rotate(op, position, x);
    case RowOpKind::kProject:
      return op.matrix->Multiply(x, op.parts, to);
    case RowOpKind::kHalvesProduct:
      return each([&](float* head, int64_t h) {
        cpu::MulRow(head, head + part / 2, to + h * part / 2, part / 2);
      });
    case RowOpKind::kRepeat: {
      const auto times = static_cast<int64_t>(op.a);
      return each([&](float* head, int64_t h) {
        for (int64_t i = 0; i < times; ++i) std::copy_n(head, part, to + (h * times + i) * part);
      });
    }
    case RowOpKind::kScaleHeads:
      return each([&](float* head, int64_t h) { cpu::ScaleRow(head, to[h], part); });
    case RowOpKind::kTaylorMap:
      return each([&](float* head, int64_t h) {
        TaylorPart(head, part, to + h * (op.to.size / op.parts));
      });
    case RowOpKind::kLogSigmoid:
      for (int64_t i = 0; i < n; ++i) {
        x[i] = std::max(-Softplus(-x[i]) / static_cast<float>(op.a), static_cast<float>(op.b));
      }
      return;
    case RowOpKind::kSoftplusGate:
      return each([&](float* head, int64_t h) {
        const float rate = op.w[static_cast<size_t>(h)];
        const float* bias = op.v.data() + h * part;
        for (int64_t i = 0; i < part; ++i) head[i] = -rate * Softplus(head[i] + bias[i]);
      });
    case RowOpKind::kBoundedGate:
      return each([&](float* head, int64_t h) {
        const float rate = op.w[static_cast<size_t>(h)];
        const float* bias = op.v.data() + h * part;
        for (int64_t i = 0; i < part; ++i) head[i] = rate * (head[i] + bias[i]);
        cpu::SigmoidRow(head, part);
        cpu::ScaleRow(head, static_cast<float>(op.a), part);
      });
    case RowOpKind::kStepGate:
      for (int64_t i = 0; i < n; ++i) {
        const auto at = static_cast<size_t>(i);
        x[i] = std::clamp(Softplus(x[i] + op.v[at]), static_cast<float>(op.a),
                          static_cast<float>(op.b));
        to[i] = -op.w[at] * x[i];
      }
      return;
    case RowOpKind::kForgetGate:
      return cpu::ForgetGateRows(op.v.empty() ? nullptr : op.v.data(), 1, n, x, to);
  }
}

}  // namespace

void RunRowOps(absl::Span<const RowOp> ops, int64_t position, float* row) {
  for (const RowOp& op : ops) RunOp(op, position, row);
}

}  // namespace attnd::decode
