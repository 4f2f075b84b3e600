#include <cmath>
#include <string>

#include "kernels/core/part_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/entry_check.h"
#include "kernels/cores/feature_maps.h"
#include "kernels/cores/image_conv.h"
#include "kernels/cores/layers.h"
#include "kernels/cores/mean_attention.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "l2vit",
      .paper = "The Linear Attention Resurrection in Vision Transformer (2025)",
      .summary = "ReLU linear attention with a floored sum, its local module, window attention",
      .core = "linear_global",
      .definition =
          R"(The three mixers of a vision transformer with linear attention (Zheng, 2025).
  global  o_i = temperature_h sum_j (relu(q_i).relu(k_j)) v_j / max(sum_j relu(q_i).relu(k_j),
          denom_min)
  local   o = conv2(batch_norm(gelu(conv1(x)))), both depthwise
  window  softmax attention in windows, which padding fills where the image ends)",
      .inputs = {"q: float[B,T,H,K] if mode != 'local'", "k: float[B,S,H,K] if mode != 'local'",
                 "v: float[B,S,H,V] if mode != 'local'",
                 "temperature: float[H]? if mode == 'global'  # 1/sqrt(K) when absent",
                 "pad_k: float[H,K]? if mode == 'window'  # keys beyond the image; 0 when absent",
                 "pad_v: float[H,V]? if mode == 'window'  # values beyond it; 0 when absent",
                 "x: float[B,T,C] if mode == 'local'",
                 "conv1_weight: float[C,kh,kw] if mode == 'local'",
                 "conv1_bias: float[C] if mode == 'local'",
                 "bn_weight: float[C] if mode == 'local'", "bn_bias: float[C] if mode == 'local'",
                 "bn_mean: float[C] if mode == 'local'",
                 "bn_var: float32[C] if mode == 'local' ~positive  # >= 0",
                 "conv2_weight: float[C,kh2,kw2] if mode == 'local'",
                 "conv2_bias: float[C] if mode == 'local'"},
      .attributes =
          {"mode: {global, local, window} = global",
           "denom_min: float = 100 > 0  # global: least sum of a row",
           "bn_eps: float = 1e-5 >= 0  # local",
           "window: int = 7 >= 1 <= 2147483647  # side of one",
           "scale: float = select(mode == 'local', 1, 1/sqrt(K))  # window: multiplies q.k",
           "height: int? >= 1  # of the image; local, window",
           "width: int? >= 1  # of the image; local, window"},
      .outputs = {"o: float[B,T,H,V]|[B,T,C]"},
      .rules = {"mode != 'global' -> has(height) && has(width)  # height and width",
                "has(height) && has(width) -> T == height * width  # height * width tokens",
                "mode == 'window' -> S == T  # as many keys as queries",
                "mode == 'local' -> kh % 2 == 1 && kw % 2 == 1  # odd kernel sizes",
                "mode == 'local' -> kh2 % 2 == 1 && kw2 % 2 == 1  # odd kernel sizes"},
      .may_be_zero = "S",
  };
  return schema;
}

absl::Status Check(const BoundCall& call) {
  return CheckEntries(
      call, "bn_var", [](double variance) { return variance >= 0; }, "variances >= 0");
}

Array Global(Composer& c) {
  const Array q = Apply(FeatureMap::kRelu, c.In("q")), k = Apply(FeatureMap::kRelu, c.In("k"));
  PartCall linear(c, "linear_attention");
  linear.In("q", q).In("k", k).Pass("v").Set("causal", false).Set("scale", 1.0);
  const Array o = linear.Out("o") / Maximum(KeyMass(q, k), c.real("denom_min"));
  if (c.has("temperature")) return o * c.In("temperature").Unsqueeze(-1);
  return o * (1 / std::sqrt(static_cast<double>(c.dim("K"))));
}

Array Local(Composer& c) {
  const int64_t height = c.integer("height"), width = c.integer("width");
  Array y = Gelu(DepthwiseConv(c.In("x"), c.In("conv1_weight"), c.In("conv1_bias"), height, width));
  y = BatchNorm(y, c.In("bn_weight"), c.In("bn_bias"), c.In("bn_mean"), c.In("bn_var"),
                c.real("bn_eps"));
  return DepthwiseConv(y, c.In("conv2_weight"), c.In("conv2_bias"), height, width);
}

// How an image is cut in windows, the last ones beyond its right and lower border.
struct Windows {
  int64_t height, width, side;

  int64_t down() const { return (height - 1) / side + 1; }
  int64_t across() const { return (width - 1) / side + 1; }

  // x [B,N,H,D], filled up with `padding` [H,D] or zeros: [B * windows, side^2, H, D].
  Array Cut(Composer& c, const Array& x, const Array& padding) const {
    if (!x.defined()) return {};
    const int64_t batch = x.dim(0), heads = x.dim(2), size = x.dim(3);
    const Array padded = c.Zeros({batch, down() * side, across() * side, heads, size});
    if (padding.defined()) padded.Assign(padding);
    padded.Slice(1, 0, height)
        .Slice(2, 0, width)
        .Assign(x.Reshape({batch, height, width, heads, size}));
    return padded.Reshape({batch, down(), side, across(), side, heads * size})
        .Transpose(2, 3)
        .Reshape({batch * down() * across(), side * side, heads, size});
  }

  // And back, without what lay beyond the image.
  Array Joined(const Array& o, int64_t batch) const {
    if (!o.defined()) return {};
    const int64_t heads = o.dim(2), size = o.dim(3);
    return o.Reshape({batch, down(), across(), side, side, heads * size})
        .Transpose(2, 3)
        .Reshape({batch, down() * side, across() * side, heads, size})
        .Slice(1, 0, height)
        .Slice(2, 0, width)
        .Reshape({batch, height * width, heads, size});
  }
};

Array InWindows(Composer& c) {
  const Windows windows = {c.integer("height"), c.integer("width"), c.integer("window")};
  PartCall attention(c, "softmax_attention");
  attention.In("q", windows.Cut(c, c.In("q"), {})).PassAttribute("scale");
  attention.In("k", windows.Cut(c, c.In("k"), c.In("pad_k")));
  attention.In("v", windows.Cut(c, c.In("v"), c.In("pad_v")));
  return windows.Joined(attention.Out("o"), c.dim("B"));
}

absl::Status Compose(Composer& c) {
  const std::string& mode = c.choice("mode");
  c.Out("o", mode == "global" ? Global(c) : mode == "local" ? Local(c) : InWindows(c));
  return c.status();
}

void Draw(RandomSource& source) {
  constexpr const char* kModes[] = {"global", "local", "window"};
  if (source.options().random_attributes) {
    source.Attribute("mode", std::string(kModes[source.Uniform(0, 2)]));
    source.Attribute("denom_min", source.Uniform(0, 1) == 0 ? 100.0 : 0.5);
    source.Attribute("window", source.Uniform(1, 5));
  }
  const AttrValue* mode = source.request().attributes.Find("mode");
  if (mode == nullptr || *mode == AttrValue(std::string("global"))) return;
  source.Dim("S", DrawImage(source, "T"));
  for (const char* side : {"kh", "kw", "kh2", "kw2"}) {
    source.Dim(side, 2 * source.Uniform(0, 2) + 1);
  }
}

}  // namespace

void RegisterL2vit(Registry& registry);

void RegisterL2vit(Registry& registry) {
  Operator& op = registry.AddOfParts(Schema(), Compose);
  op.check = Check;
  op.random = Draw;
}

}  // namespace attnd
