#include <string>

#include "kernels/core/registry.h"
#include "kernels/cores/feature_maps.h"
#include "kernels/cores/layers.h"
#include "kernels/cores/mean_attention.h"
#include "kernels/cores/rope.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "her_seg_dla",
      .paper =
          "HER-Seg: Holistically Efficient Segmentation for High-Resolution Medical Images "
          "(2025)",
      .summary = "Linear attention for images between a bottleneck gate and an output gate",
      .core = "linear_global",
      .definition =
          R"(Linear attention between two gates, a bottleneck that forms the values and one of the output (2025). phi = elu + 1, R the rotary positions of a token's row and column:
  v = expand silu(squeeze x + squeeze_bias) + expand_bias
  o_i = (1/T) sum_j (R_i phi(q_i).R_j phi(k_j)) v_j / ((1/T) sum_j phi(q_i).phi(k_j) + eps),
  then + lepe(v)_i, then * silu(gate_i))",
      .inputs = {"q: float[B,T,H,K]  # before the feature map",
                 "k: float[B,T,H,K]  # before the feature map",
                 "x: float[B,T,C]?  # from which the values are formed, in the place of v",
                 "v: float[B,T,H,VI] if !has(x)  # values, filtered already",
                 "squeeze_weight: float[R,C] if has(x)", "squeeze_bias: float[R] if has(x)",
                 "expand_weight: float[C,R] if has(x)", "expand_bias: float[C] if has(x)",
                 "lepe_weight: float[H*V,kh,kw]?  # depthwise kernel over the values as an image",
                 "lepe_bias: float[H*V]? if has(lepe_weight)",
                 "gate: float[B,T,H,V]?  # before its silu"},
      .attributes = {"rope: {axial2d_full, none} = axial2d_full  # over the channels of all heads",
                     "rope_base: float = 10000 > 0",
                     "eps: float = 1e-6 >= 0  # added to the normaliser",
                     "height: int? >= 1  # of the image; unless rope is none and no lepe_weight",
                     "width: int? >= 1  # of the image; likewise"},
      .outputs = {"o: float[B,T,H,V]"},
      .derived = {"V = select(has(x), ceil_div(C, H), VI)"},
      .rules =
          {"has(x) -> C % H == 0  # C a multiple of the heads",
           "rope != 'none' -> H * K % 4 == 0  # H * K a multiple of 4 with axial2d_full",
           "rope != 'none' || has(lepe_weight) -> has(height) && has(width)  # height and width",
           "has(height) && has(width) -> T == height * width  # height * width tokens",
           "has(lepe_weight) -> kh % 2 == 1 && kw % 2 == 1  # odd kernel sizes"},
  };
  return schema;
}

Array Values(Composer& c) {
  if (!c.has("x")) return c.In("v");
  const Array squeezed = Dense(c.In("x"), c.In("squeeze_weight"), c.In("squeeze_bias"));
  return Dense(Silu(squeezed), c.In("expand_weight"), c.In("expand_bias"))
      .Reshape({c.dim("B"), c.dim("T"), c.dim("H"), c.dim("V")});
}

// Channels turn before they are split in heads.
std::function<Array(const Array&)> Turn(Composer& c) {
  if (c.choice("rope") == "none") return {};
  return [&c](const Array& x) {
    if (!x.defined()) return Array();
    const int64_t size = x.dim(2) * x.dim(3);
    const Array angles =
        AxialRopeAngles(c, c.integer("height"), c.integer("width"),
                        RopeFrequencies(RopePairs::kHalf, size / 2, c.real("rope_base")));
    return Rotate(x.Reshape({x.dim(0), x.dim(1), size}), RopePairs::kInterleaved, angles)
        .Reshape(x.tensor().shape());
  };
}

absl::Status Compose(Composer& c) {
  const Array v = Values(c);
  const Array o =
      WithLepe(c,
               MeanAttention(c, Apply(FeatureMap::kElu1, c.In("q")),
                             Apply(FeatureMap::kElu1, c.In("k")), v, c.real("eps"), Turn(c)),
               v);
  c.Out("o", c.has("gate") ? o * Silu(c.In("gate")) : o);
  return c.status();
}

void Draw(RandomSource& source) {
  if (source.options().random_attributes && source.Uniform(0, 1) == 0) {
    source.Attribute("rope", std::string("none"));
  }
  const int64_t heads = source.Dim("H", source.Uniform(1, 4));
  source.Dim("K", (heads % 4 == 0 ? 1 : heads % 2 == 0 ? 2 : 4) * source.Uniform(1, 9));
  if (source.Wants("x")) source.Dim("C", heads * source.Uniform(1, 12));
  DrawImage(source, "T");
  source.Dim("kh", 2 * source.Uniform(0, 2) + 1);
  source.Dim("kw", 2 * source.Uniform(0, 2) + 1);
}

}  // namespace

void RegisterHerSegDla(Registry& registry);

void RegisterHerSegDla(Registry& registry) { registry.AddOfParts(Schema(), Compose).random = Draw; }

}  // namespace attnd
