#include "models/layers/rows.h"

#include <algorithm>
#include <cmath>

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
