#include "kernels/core/registry.h"
#include "kernels/cores/layers.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "activator",
      .paper = "Activator: GLU Activations as The Core Functions of a Vision Transformer (2024)",
      .summary = "A gated linear unit in the place of attention: channels mix, tokens do not",
      .core = "none",
      .definition =
          R"(A gated linear unit in the place of attention (Abdullah et al., 2024). LN the layer norm:
  U(x) = W3 (LN(gelu(W1 x + b1)) * LN(W2 x + b2)) + b3
  unit: y = U(x);  gated: y = x + U(LN_b(x));  full: gated, then y + FFN(LN_b(y)))",
      .inputs = {"x: float[B,N,D]", "w1: float[F,D]", "b1: float[F]", "w2: float[F,D]",
                 "b2: float[F]", "w3: float[D,F]", "b3: float[D]",
                 "norm_weight: float[F]  # one layer norm for both branches", "norm_bias: float[F]",
                 "block_norm_weight: float[D] if block != 'unit'  # one layer norm before both "
                 "halves",
                 "block_norm_bias: float[D] if block != 'unit'",
                 "ffn_w1: float[F2,D] if block == 'full'", "ffn_b1: float[F2] if block == 'full'",
                 "ffn_w2: float[D,F2] if block == 'full'", "ffn_b2: float[D] if block == 'full'"},
      .attributes = {"block: {unit, gated, full} = unit",
                     "eps: float = 1e-5 >= 0  # of the layer norms"},
      .outputs = {"y: float[B,N,D]"},
      .may_be_zero = "N",
  };
  return schema;
}

absl::Status Compose(Composer& c) {
  const auto block_norm = [&c](const Array& x) {
    return LayerNorm(x, c.In("block_norm_weight"), c.In("block_norm_bias"), c.real("eps"));
  };
  const auto unit = [&c](const Array& x) {
    const auto norm = [&c](const Array& h) {
      return LayerNorm(h, c.In("norm_weight"), c.In("norm_bias"), c.real("eps"));
    };
    const Array gate = norm(Gelu(Dense(x, c.In("w1"), c.In("b1"))));
    return Dense(gate * norm(Dense(x, c.In("w2"), c.In("b2"))), c.In("w3"), c.In("b3"));
  };
  const Array x = c.In("x");
  Array y = c.choice("block") == "unit" ? unit(x) : x + unit(block_norm(x));
  if (c.choice("block") == "full") {
    const Array hidden = Gelu(Dense(block_norm(y), c.In("ffn_w1"), c.In("ffn_b1")));
    y = y + Dense(hidden, c.In("ffn_w2"), c.In("ffn_b2"));
  }
  c.Out("y", y);
  return c.status();
}

}  // namespace

void RegisterActivator(Registry& registry);

void RegisterActivator(Registry& registry) { registry.Add(Schema(), Compose); }

}  // namespace attnd
