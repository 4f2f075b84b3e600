#include <string>

#include "kernels/core/registry.h"
#include "kernels/cores/feature_maps.h"
#include "kernels/cores/image_conv.h"
#include "kernels/cores/mean_attention.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "inline_attention",
      .paper = "Bridging the Divide: Reconsidering Softmax and Linear Attention (2024)",
      .summary = "Injective linear attention with a local residual predicted from the sample",
      .core = "linear_global",
      .definition =
          R"(Linear attention normalised by subtraction, so that different queries have different weights, with a 3x3 convolution predicted from the sample (Han et al., 2024):
  a_ij = (scale/S) phi(q_i).phi(k_j),  w_ij = a_ij - mean_m a_im + 1/S,  o_i = sum_j w_ij v_j Keys and values are centred first: a_ij - mean_m a_im = (scale/S) phi(q_i).(phi(k_j) - mean phi(k)), which sums to zero over j, so that
  o_i = (scale/S) sum_j phi(q_i).(phi(k_j) - mean phi(k)) (v_j - mean v) + mean v)",
      .inputs = {"q: float[B,T,H,K]  # before the feature map",
                 "k: float[B,S,H,K]  # before the feature map", "v: float[B,S,H,V]",
                 "local_weight: float[B,H,V,3,3]?  # the residual's kernels",
                 "x: float[B,T,H*V]? if !has(local_weight)  # from which the kernels are predicted",
                 "res_w1: float[H*V,V] if has(x)", "res_b1: float[H*V] if has(x)",
                 "res_w2: float[9*H*V,V] if has(x)", "res_b2: float[9*H*V] if has(x)"},
      .attributes = {"kernel: {identity, relu, leaky_relu, exp} = identity  # phi; leaky_relu with "
                     "slope 0.01, exp(0.2 x)",
                     "scale: float = 1/sqrt(K)  # multiplies phi(q).phi(k)",
                     "num_prefix: int = 0 >= 0  # leading tokens outside the image",
                     "height: int? >= 1  # of the image; with a local residual",
                     "width: int? >= 1  # of the image; with a local residual"},
      .outputs = {"o: float[B,T,H,V]"},
      .rules =
          {"has(local_weight) || has(x) -> has(height) && has(width)  # height and width",
           "has(local_weight) || has(x) -> S == T  # as many keys as queries",
           "has(height) && has(width) -> T == num_prefix + height * width  # num_prefix + height * "
           "width tokens"},
  };
  return schema;
}

Array Features(Composer& c, absl::string_view name) {
  const std::string& kernel = c.choice("kernel");
  const Array x = c.In(name);
  if (kernel == "leaky_relu") return Maximum(x, x * 0.01);
  if (kernel == "exp") return Exp(x * 0.2);
  return Apply(FeatureMapFromName(kernel), x);
}

Array MeanOfTokens(const Array& x) {
  return x.defined() ? Sum(x, 1) / static_cast<double>(x.dim(1)) : Array();
}

// [B,H*V,3,3]: two layers on each head's mean input.
Array Kernels(Composer& c) {
  const int64_t batch = c.dim("B"), heads = c.dim("H"), size = c.dim("V");
  if (c.has("local_weight")) return c.In("local_weight").Reshape({batch, heads * size, 3, 3});
  const auto layer = [&](const Array& x, absl::string_view weight, absl::string_view bias) {
    const int64_t rows = c.In(bias).defined() ? c.In(bias).dim(0) / heads : 0;
    return MatMul(x, c.In(weight).Reshape({heads, rows, size}).T()) +
           c.In(bias).Reshape({heads, 1, rows});
  };
  const Array mean = MeanOfTokens(c.In("x")).Reshape({batch, heads, 1, size});
  const Array hidden = Gelu(layer(mean, "res_w1", "res_b1"));
  return layer(hidden, "res_w2", "res_b2").Reshape({batch, heads * size, 3, 3});
}

absl::Status Compose(Composer& c) {
  const Array q = Features(c, "q"), k = Features(c, "k"), v = c.In("v");
  const Array mean = MeanOfTokens(v);
  const Array o = MeanProduct(c, q, k - MeanOfTokens(k), v - mean, c.real("scale")) + mean;
  if (c.has("local_weight") || c.has("x")) {
    const int64_t height = c.integer("height"), width = c.integer("width");
    const auto pixels = [&](const Array& x) {
      return x.Slice(1, c.integer("num_prefix"), height * width);
    };
    const Array image = pixels(v).Reshape({c.dim("B"), height * width, c.dim("H") * c.dim("V")});
    const Array local = DepthwiseConv(image, Kernels(c), {}, height, width);
    pixels(o).Assign(pixels(o) +
                     local.Reshape({c.dim("B"), height * width, c.dim("H"), c.dim("V")}));
  }
  c.Out("o", o);
  return c.status();
}

void Draw(RandomSource& source) {
  source.OneOf({{"local_weight"}, {"x"}, {}});
  if (!source.Wants("local_weight") && !source.Wants("x")) return;
  const int64_t* tokens = source.options().dims.Find("T");
  source.Attribute("num_prefix", tokens != nullptr ? int64_t{0} : source.Uniform(0, 2));
  const int64_t pixels = DrawImage(source, "T");
  const auto prefix = std::get<int64_t>(*source.request().attributes.Find("num_prefix"));
  source.Dim("S", source.Dim("T", pixels + (tokens != nullptr ? 0 : prefix)));
}

}  // namespace

void RegisterInlineAttention(Registry& registry);

void RegisterInlineAttention(Registry& registry) {
  registry.AddOfParts(Schema(), Compose).random = Draw;
}

}  // namespace attnd
