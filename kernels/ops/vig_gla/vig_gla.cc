#include "kernels/core/part_call.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/rms_norm.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "vig_gla",
      .paper = "ViG: Linear-complexity Visual Sequence Learning with Gated Linear Attention (2024)",
      .summary = "Gated linear attention in both directions, mixed with a convolution branch",
      .core = "linear_recurrent",
      .definition =
          R"(Gated linear attention over the tokens of an image in both directions, mixed with a convolution branch ("ViG: Linear-complexity Visual Sequence Learning with Gated Linear Attention", 2024).
  a = (gla(q, k, v, g_forward) + reversed gla(q, k, v, g_backward)) / 2
  o = sigmoid(gate) rms(a) + (1 - sigmoid(gate)) rms(local))",
      .inputs = {"q: float[B,T,H,K]", "k: float[B,T,H,K]", "v: float[B,T,H,V]",
                 "g_forward: float32[B,T,H,K] ~logdecay  # log decay per key channel",
                 "g_backward: float32[B,T,H,K] ~logdecay",
                 "norm_weight: float[V]?  # rms norm of each head's output; none when absent",
                 "local: float[B,T,H,V]?  # the convolution branch",
                 "local_norm_weight: float[V] if has(local)",
                 "gate: float[B,T,H,V] if has(local)  # before its sigmoid"},
      .attributes = {"scale: float = 1/sqrt(K)  # multiplies q",
                     "norm_eps: float = 1e-6 >= 0  # inside the root of both norms"},
      .outputs = {"o: float[B,T,H,V]"},
      .rules = {"has(local) -> has(norm_weight)  # norm_weight with local"},
  };
  return schema;
}

Array Direction(Composer& c, absl::string_view gate, bool backward) {
  const auto in = [&](absl::string_view name) {
    return backward ? Flip(c.In(name), 1) : c.In(name);
  };
  PartCall gla(c, "gla");
  gla.In("q", in("q")).In("k", in("k")).In("v", in("v")).In("g", in(gate)).PassAttribute("scale");
  return backward ? Flip(gla.Out("o"), 1) : gla.Out("o");
}

absl::Status Compose(Composer& c) {
  const double eps = c.real("norm_eps");
  Array a = (Direction(c, "g_forward", false) + Direction(c, "g_backward", true)) * 0.5;
  if (c.has("norm_weight")) {
    // A row with an infinity is NaN as a whole, as one with NaN is: which of the two sums with zero
    // weights make depends on their order.
    a = RmsNorm(a + Sum(a * 0.0, -1), c.In("norm_weight"), eps);
  }
  if (c.has("local")) {
    const Array local = RmsNorm(c.In("local"), c.In("local_norm_weight"), eps);
    const Array gate = c.In("gate");
    a = Sigmoid(gate) * a + Sigmoid(-gate) * local;
  }
  c.Out("o", a);
  return c.status();
}

void Draw(RandomSource& source) {
  source.Together({"local", "norm_weight"});
  // Rows of few channels may come near zero, where a norm makes noise of rounding.
  source.Dim("V", source.Uniform(4, 40));
}

}  // namespace

void RegisterVigGla(Registry& registry);

void RegisterVigGla(Registry& registry) { registry.AddOfParts(Schema(), Compose).random = Draw; }

}  // namespace attnd
