// The short causal convolution of a session: short_conv with its last inputs in a layer's state.
#ifndef ATTND_MODELS_LAYERS_SHORT_CONVOLUTION_H_
#define ATTND_MODELS_LAYERS_SHORT_CONVOLUTION_H_

#include <cstdint>
#include <string>

#include "models/layers/weights.h"
#include "models/step.h"

namespace attnd::models {

// y_t = act(bias + sum_j weight_j x_{t-(W-1)+j}), act silu or nothing. Channels of a checkpoint's
// <name>.weight [channels,1,W] and, with `bias`, <name>.bias.
class ShortConvolution {
 public:
  ShortConvolution() = default;
  ShortConvolution(WeightReader& weights, const std::string& name, int64_t channels, int64_t taps,
                   bool bias, bool silu);

  // Floats of its state: the last W - 1 inputs, oldest first.
  int64_t state_size() const { return (taps_ - 1) * channels_; }

  // In place on rows `stride` floats apart; the state lies at `offset` of the layer's fixed part.
  void Run(const Step& step, int64_t layer, int64_t offset, float* rows, int64_t stride) const;

 private:
  void RunSegment(const Segment& segment, float* history, float* rows, int64_t stride) const;

  int64_t channels_ = 0;
  int64_t taps_ = 1;
  bool silu_ = false;
  Floats weight_;  // [W,channels]
  Floats bias_;    // [channels], or empty.
};

}  // namespace attnd::models

#endif  // ATTND_MODELS_LAYERS_SHORT_CONVOLUTION_H_
