#include "models/layers/short_convolution.h"

#include <algorithm>

#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"

namespace attnd::models {

void ShortConvolution::Run(const Step& step, int64_t layer, int64_t offset, float* rows,
                           int64_t stride) const {
  const double work = 4.0 * static_cast<double>(step.rows * program_.at.size * (program_.taps + 4));
  cpu::ParallelFor(static_cast<int64_t>(step.segments.size()), work, [&](int64_t i) {
    const Segment& segment = step.segments[static_cast<size_t>(i)];
    RunSegment(segment, segment.state->layer(layer).fixed.data<float>() + offset,
               rows + segment.row * stride + program_.at.offset, stride);
  });
}

void ShortConvolution::RunSegment(const Segment& segment, float* history, float* rows,
                                  int64_t stride) const {
  const int64_t channels = program_.at.size, taps = program_.taps;
  // A ring of the last W inputs would do; copies of W - 1 rows are cheap beside the products.
  cpu::Scratch scratch;
  float* inputs = scratch.Take<float>(taps * channels);
  std::copy_n(history, state_size(), inputs);
  for (int64_t t = 0; t < segment.count; ++t) {
    float* row = rows + t * stride;
    std::copy_n(row, channels, inputs + state_size());
    if (program_.bias.empty()) {
      std::fill_n(row, channels, 0.0f);
    } else {
      std::copy_n(program_.bias.data(), channels, row);
    }
    for (int64_t j = 0; j < taps; ++j) {
      cpu::MulAddRow(program_.weight.data() + j * channels, inputs + j * channels, row, channels);
    }
    if (program_.silu) cpu::SiluRow(row, channels);
    std::copy(inputs + channels, inputs + taps * channels, inputs);
  }
  std::copy_n(inputs, state_size(), history);
}

}  // namespace attnd::models
