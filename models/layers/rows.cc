#include "models/layers/rows.h"

#include <algorithm>
#include <cmath>

#include "kernels/cores/rope.h"
#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"

namespace attnd::models {

void RmsNormRow(const float* x, int64_t n, double eps, absl::Span<const float> weight, float* out) {
  const double mean = static_cast<double>(cpu::DotRow(x, x, n)) / static_cast<double>(n);
  const auto factor = static_cast<float>(1 / std::sqrt(mean + eps));
  if (out != x) std::copy_n(x, n, out);
  cpu::ScaleRow(out, factor, n);
  if (!weight.empty()) cpu::MulRow(out, weight.data(), out, n);
}

void L2NormRow(float* x, int64_t n, double eps) {
  const double sum = cpu::DotRow(x, x, n);
  cpu::ScaleRow(x, static_cast<float>(1 / std::sqrt(sum + eps)), n);
}

void LogSigmoidRow(float* x, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] = -Softplus(-x[i]);
}

float Softplus(float x) { return std::max(x, 0.0f) + std::log1p(std::exp(-std::abs(x))); }

void RotateHeads(absl::Span<const double> frequencies, int64_t position, int64_t heads,
                 float* row) {
  const auto half = static_cast<int64_t>(frequencies.size());
  cpu::Scratch scratch;
  float* cos = scratch.Take<float>(half);
  float* sin = scratch.Take<float>(half);
  cpu::RopeRow(frequencies, static_cast<double>(position), cos, sin);
  for (int64_t h = 0; h < heads; ++h) {
    cpu::RotateRow(RopePairs::kHalf, cos, sin, 2 * half, row + h * 2 * half);
  }
}

void ForRows(const Step& step, double work,
             absl::FunctionRef<void(int64_t row, int64_t position)> body) {
  constexpr int64_t kRun = 16;  // Rows of a task.
  cpu::ParallelFor((step.rows + kRun - 1) / kRun, work, [&](int64_t task) {
    const int64_t begin = task * kRun, end = std::min(step.rows, begin + kRun);
    for (const Segment& segment : step.segments) {
      const int64_t first = std::max(begin, segment.row);
      const int64_t last = std::min(end, segment.row + segment.count);
      for (int64_t row = first; row < last; ++row) {
        body(row, segment.state->position() + row - segment.row);
      }
    }
  });
}

}  // namespace attnd::models
