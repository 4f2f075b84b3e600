// Causal depthwise convolution over time with a short kernel, on the CPU.
//   y_t[d] = bias[d] + sum_{j<W} weight[d,j] x_{t-(W-1)+j}[d],  o_t = act(y_t) + residual_t
// Tokens before a sequence come from its state. O(T D W), bound by memory.
#ifndef ATTND_KERNELS_CORES_SHORT_CONV_H_
#define ATTND_KERNELS_CORES_SHORT_CONV_H_

#include "absl/types/span.h"
#include "kernels/core/call.h"
#include "kernels/core/tensor.h"

namespace attnd::cpu {

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

// Every output is the same sum in the same order, however tokens were cut into calls.
void ShortConv(const ShortConvCall& call);

}  // namespace attnd::cpu

#endif  // ATTND_KERNELS_CORES_SHORT_CONV_H_
