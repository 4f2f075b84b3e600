// The short causal convolution of a session: short_conv with its last inputs in a layer's state.
#ifndef ATTND_MODELS_LAYERS_SHORT_CONVOLUTION_H_
#define ATTND_MODELS_LAYERS_SHORT_CONVOLUTION_H_

#include <cstdint>

#include "kernels/decode/step_program.h"
#include "models/step.h"

namespace attnd::models {

// One of a row's convolutions (kernels/decode/step_program.h), which must outlive it.
class ShortConvolution {
 public:
  explicit ShortConvolution(const decode::RowConvolution& program) : program_(program) {}

  // Floats of its state: the last W - 1 inputs, oldest first.
  int64_t state_size() const { return (program_.taps - 1) * program_.at.size; }

  // In place on rows `stride` floats apart; the state lies at `offset` of the layer's fixed part.
  void Run(const Step& step, int64_t layer, int64_t offset, float* rows, int64_t stride) const;

 private:
  void RunSegment(const Segment& segment, float* history, float* rows, int64_t stride) const;

  const decode::RowConvolution& program_;
};

}  // namespace attnd::models

#endif  // ATTND_MODELS_LAYERS_SHORT_CONVOLUTION_H_
