// Causal depthwise convolution over time with a short kernel, on CUDA (short_conv.h has the
// equation).
#ifndef ATTND_KERNELS_CORES_SHORT_CONV_CUDA_H_
#define ATTND_KERNELS_CORES_SHORT_CONV_CUDA_H_

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "kernels/core/call.h"
#include "kernels/core/tensor.h"
#include "kernels/primitives/primitives.h"

namespace attnd::cuda {

struct ShortConvCall {
  // Contiguous; x, weight, bias, residual, o of one type: float32, float16 or bfloat16.
  Tensor x;              // [B,T,D]
  Tensor weight;         // [D,W], W >= 1; tap W-1 meets the current token.
  Tensor bias;           // [D], or undefined.
  Tensor residual;       // [B,T,D], or undefined.
  Tensor initial_state;  // float32 [M,D,W-1], oldest first; undefined: zeros.
  Tensor o;              // [B,T,D]
  Tensor final_state;    // float32 [M,D,W-1]
  bool silu = true;      // act: x sigmoid(x), or nothing.
  absl::Span<const Sequence> sequences;
};

// Queues the computation on the backend's stream. Every output is the same sum in the same order,
// however tokens were cut into calls. RESOURCE_EXHAUSTED if a table or a launch is too large;
// INTERNAL if a launch fails.
absl::Status ShortConv(Backend& backend, const ShortConvCall& call);

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CORES_SHORT_CONV_CUDA_H_
