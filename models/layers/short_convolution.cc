#include "models/layers/short_convolution.h"

#include <algorithm>

#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"

namespace attnd::models {

ShortConvolution::ShortConvolution(WeightReader& weights, const std::string& name, int64_t channels,
                                   int64_t taps, bool bias, bool silu)
    : channels_(channels), taps_(taps), silu_(silu) {
  const Floats by_channel = weights.Vector(name + ".weight", {channels, 1, taps});
  if (bias) bias_ = weights.Vector(name + ".bias", {channels});
  if (!weights.status().ok()) return;
  weight_.resize(by_channel.size());
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t j = 0; j < taps; ++j) {
      weight_[static_cast<size_t>(j * channels + c)] =
          by_channel[static_cast<size_t>(c * taps + j)];
    }
  }
}

void ShortConvolution::Run(const Step& step, int64_t layer, int64_t offset, float* rows,
                           int64_t stride) const {
  const double work = 4.0 * static_cast<double>(step.rows * channels_ * (taps_ + 4));
  cpu::ParallelFor(static_cast<int64_t>(step.segments.size()), work, [&](int64_t i) {
    const Segment& segment = step.segments[static_cast<size_t>(i)];
    RunSegment(segment, segment.state->layer(layer).fixed.data<float>() + offset,
               rows + segment.row * stride, stride);
  });
}

void ShortConvolution::RunSegment(const Segment& segment, float* history, float* rows,
                                  int64_t stride) const {
  // A ring of the last W inputs would do; copies of W - 1 rows are cheap beside the products.
  cpu::Scratch scratch;
  float* inputs = scratch.Take<float>(taps_ * channels_);
  std::copy_n(history, state_size(), inputs);
  for (int64_t t = 0; t < segment.count; ++t) {
    float* row = rows + t * stride;
    std::copy_n(row, channels_, inputs + state_size());
    if (bias_.empty()) {
      std::fill_n(row, channels_, 0.0f);
    } else {
      std::copy_n(bias_.data(), channels_, row);
    }
    for (int64_t j = 0; j < taps_; ++j) {
      cpu::MulAddRow(weight_.data() + j * channels_, inputs + j * channels_, row, channels_);
    }
    if (silu_) cpu::SiluRow(row, channels_);
    std::copy(inputs + channels_, inputs + taps_ * channels_, inputs);
  }
  std::copy_n(inputs, state_size(), history);
}

}  // namespace attnd::models
