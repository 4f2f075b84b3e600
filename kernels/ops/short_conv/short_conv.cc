#include "kernels/core/registry.h"
#include "kernels/primitives/composer.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "short_conv",
      .paper = "Parallelizing Linear Transformers with the Delta Rule over Sequence Length (2024)",
      .summary = "Causal depthwise convolution over time with an activation and a state",
      .core = "short_conv",
      .definition =
          R"(Causal depthwise convolution with a few taps, which mixes each channel with its last W-1 values before the recurrence of a linear-attention layer.
  y_t[d] = bias[d] + sum_j weight[d,j] x_{t-(W-1)+j}[d],  o_t = act(y_t) + residual_t)",
      .inputs = {"x: float[B,T,D]", "weight: float[D,W]  # tap W-1 multiplies the current token",
                 "bias: float[D]?", "residual: float[B,T,D]?  # added after the activation",
                 "initial_state: float32[M,D,W-1]?  # the last W-1 inputs, oldest first; zeros",
                 "cu_seqlens: int32[M+1]?  # packed sequences, B = 1"},
      .attributes = {"activation: {silu, none} = silu"},
      .outputs = {"o: float[B,T,D]", "final_state: float32[M,D,W-1]"},
  };
  return schema;
}

absl::Status Compose(Composer& c) {
  const Array x = c.In("x"), weight = c.In("weight");
  const int64_t tokens = c.dim("T"), taps = c.dim("W");
  const Array state =
      c.has("initial_state") ? c.In("initial_state") : c.Zeros({x.dim(0), c.dim("D"), taps - 1});
  const Array inputs = Concat(state.T(), x, 1);
  Array y = c.has("bias") ? c.In("bias").Expand(x.tensor().shape()) : c.Zeros(x.tensor().shape());
  for (int64_t j = 0; j < taps; ++j) {
    y = y + weight.Select(1, j) * inputs.Slice(1, j, tokens);
  }
  if (c.choice("activation") == "silu") y = Silu(y);
  if (c.has("residual")) y = y + c.In("residual");
  c.Out("o", y);
  c.Out("final_state", inputs.Slice(1, tokens, taps - 1).T());
  return c.status();
}

}  // namespace

void RegisterShortConv(Registry& registry);

void RegisterShortConv(Registry& registry) {
  registry.Add(Schema(), Compose).causal = [](const BoundCall&) { return true; };
}

}  // namespace attnd
