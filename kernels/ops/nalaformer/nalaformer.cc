#include "kernels/core/registry.h"
#include "kernels/cores/layers.h"
#include "kernels/cores/mean_attention.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "nalaformer",
      .paper = "NaLaFormer: Norm-Aware Linear Attention for Transformer Models (2025)",
      .summary = "Linear attention for images that sharpens with the query's norm, signs apart",
      .core = "linear_global",
      .definition =
          R"(Linear attention whose query features are a power of the query's direction that grows with its norm, split by sign (2025). u = q/|q|, p_i = power_scale (power_shift + tanh |q_i|): phi(q) = [max(u,0)^p; max(-u,0)^p],  phi(k) = [max(k,0)^key_power; max(-k,0)^key_power]
  o_i = (1/S) sum_j (R_i phi(q_i).R_j phi(k_j)) v_j / ((1/S) sum_j phi(q_i).phi(k_j) + eps),
  then + lepe(v)_i, then the layer norm over all channels, then * silu(gate_i))",
      .inputs = AxialInputs({"q: float[B,T,H,K]", "k: float[B,S,H,K]", "v: float[B,S,H,V]",
                             "norm_weight: float[H*V]?  # layer norm over all channels",
                             "norm_bias: float[H*V]?  # with norm_weight",
                             "gate: float[B,T,H,V]?  # before its silu"}),
      .attributes = AxialAttributes(
          {"power_scale: float = 3 > 0", "power_shift: float = 0.5 > 0  # added to tanh |q|",
           "key_power: float = 3 > 0", "eps: float = 1e-6 >= 0  # added to the normaliser",
           "norm_eps: float = 1e-5 >= 0  # of the layer norm"}),
      .outputs = {"o: float[B,T,H,V]"},
      .rules = AxialRules({"has(norm_weight) == has(norm_bias)  # norm_weight and norm_bias, or "
                           "neither"}),
      .may_be_zero = "S",
  };
  return schema;
}

// [max(x,0)^power; max(-x,0)^power] along the last axis.
Array SignSplit(const Array& x, const Array& power) {
  return Concat(Pow(Maximum(x, 0.0), power), Pow(Maximum(-x, 0.0), power), -1);
}

// `turn` for both halves of the last axis.
std::function<Array(const Array&)> OfHalves(std::function<Array(const Array&)> turn) {
  if (!turn) return {};
  return [turn = std::move(turn)](const Array& x) {
    if (!x.defined()) return Array();
    const int64_t half = x.dim(-1) / 2;
    return Concat(turn(x.Slice(3, 0, half)), turn(x.Slice(3, half, half)), -1);
  };
}

absl::Status Compose(Composer& c) {
  const Array q = c.In("q"), v = c.In("v");
  const Array norm = Sqrt(Sum(Apply(UnaryOp::kSquare, q), -1));
  const Array direction = Where(Equal(norm, c.Scalar(0)), c.Scalar(0), q / norm);
  const Array power = (Apply(UnaryOp::kTanh, norm) + c.real("power_shift")) * c.real("power_scale");
  Array o = MeanAttention(c, SignSplit(direction, power),
                          SignSplit(c.In("k"), c.Scalar(c.real("key_power"))), v, c.real("eps"),
                          OfHalves(AxialTurn(c)));
  o = WithLepe(c, o, v);
  if (c.has("norm_weight") && o.defined()) {
    const Dims shape = o.tensor().shape();
    o = LayerNorm(o.Reshape({shape[0], shape[1], shape[2] * shape[3]}), c.In("norm_weight"),
                  c.In("norm_bias"), c.real("norm_eps"))
            .Reshape(shape);
  }
  c.Out("o", c.has("gate") ? o * Silu(c.In("gate")) : o);
  return c.status();
}

void Draw(RandomSource& source) {
  source.Together({"norm_weight", "norm_bias"});
  DrawAxial(source);
}

}  // namespace

void RegisterNalaformer(Registry& registry);

void RegisterNalaformer(Registry& registry) {
  registry.AddOfParts(Schema(), Compose).random = Draw;
}

}  // namespace attnd
