#include <algorithm>
#include <vector>

#include "kernels/core/part_call.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/block_choice.h"
#include "kernels/cores/lepe.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "bi_level_routing",
      .paper = "BiFormer: Vision Transformer with Bi-Level Routing Attention (2023)",
      .summary = "Image tokens attend to the few regions that their own is most similar to",
      .core = "block_sparse_image",
      .definition =
          R"(Tokens of an image attend to all tokens of the few regions that their own region is most similar to (Zhu et al., "BiFormer: Vision Transformer with Bi-Level Routing Attention", 2023). With Q_r, K_r the means of a region's queries and keys over all heads: routing(r) = the top_k largest of Q_r.K_s over regions s
  o_i = softmax attention over the tokens of the regions in routing(region of i), + lepe(v)_i)",
      .inputs = {"q: float[B,N,H,K]", "k: float[B,N,H,K]", "v: float[B,N,H,V]",
                 "lepe_weight: float[H*V,kh,kw]?  # depthwise kernel over the values as an image",
                 "lepe_bias: float[H*V]? if has(lepe_weight)"},
      .attributes =
          {"height: int >= 1  # of the image", "width: int >= 1  # of the image",
           "regions: int = 7 >= 1  # on each side",
           "top_k: int = 4 >= 1  # regions that a region reads",
           "scale: float = 1/sqrt(H*K) > 0  # multiplies q.k",
           "auto_pad: bool = false  # regions at the lower and right border are filled up "
           "with zeros, which are keys too",
           "return_routing: bool = false"},
      .outputs = {"o: float[B,N,H,V]",
                  "routing: int32[B,R,top_k] if return_routing  # the most similar region first"},
      .derived = {"RH = max(1, floor(height / regions))", "RW = max(1, floor(width / regions))",
                  "R = ceil_div(height, RH) * ceil_div(width, RW)"},
      .rules =
          {"N == height * width  # height * width tokens",
           "regions <= min(height, width)  # at most as many regions as rows and columns",
           "auto_pad || (height % regions == 0 && width % regions == 0)  # regions that divide "
           "height and width, or auto_pad",
           "top_k <= R  # top_k of at most all regions",
           "has(lepe_weight) -> kh % 2 == 1 && kw % 2 == 1  # odd kernel sizes"},
  };
  return schema;
}

// An image cut into regions of rh by rw tokens, filled up with zeros at its lower and right border.
struct Regions {
  int64_t height, width, rh, rw;

  int64_t down() const { return (height + rh - 1) / rh; }
  int64_t across() const { return (width + rw - 1) / rw; }
  int64_t count() const { return down() * across(); }
  int64_t size() const { return rh * rw; }

  // x [B,N,H,C] -> [B,count * size,H,C], region after region.
  Array Cut(const Array& x) const {
    Composer& c = *x.composer();
    const int64_t channels = x.dim(2) * x.dim(3);
    const Array padded = c.Zeros({x.dim(0), down() * rh, across() * rw, channels});
    padded.Slice(1, 0, height)
        .Slice(2, 0, width)
        .Assign(x.Reshape({x.dim(0), height, width, channels}));
    return padded.Reshape({x.dim(0), down(), rh, across(), rw, channels})
        .Permute({0, 1, 3, 2, 4, 5})
        .Reshape({x.dim(0), count() * size(), x.dim(2), x.dim(3)});
  }

  // The way back.
  Array Join(const Array& x) const {
    const int64_t channels = x.dim(2) * x.dim(3);
    return x.Reshape({x.dim(0), down(), across(), rh, rw, channels})
        .Permute({0, 1, 3, 2, 4, 5})
        .Reshape({x.dim(0), down() * rh, across() * rw, channels})
        .Slice(1, 0, height)
        .Slice(2, 0, width)
        .Reshape({x.dim(0), height * width, x.dim(2), x.dim(3)});
  }

  // x as Cut gives it -> [B,count,H C]: means over the tokens that are there.
  Array Means(const Array& x) const {
    std::vector<double> tokens;
    for (int64_t r = 0; r < count(); ++r) {
      const int64_t rows = std::min(rh, height - r / across() * rh);
      const int64_t columns = std::min(rw, width - r % across() * rw);
      tokens.push_back(static_cast<double>(rows * columns));
    }
    const Array divisor = x.composer()->FromHost(HostTensor<double>({count()}, tokens));
    const Array sums = Sum(x.Reshape({x.dim(0), count(), size(), x.dim(2) * x.dim(3)}), 2);
    return sums.Select(2, 0) / divisor.Unsqueeze(1);
  }
};

absl::Status Compose(Composer& c) {
  const Regions regions{c.integer("height"), c.integer("width"), c.dim("RH"), c.dim("RW")};
  const Array q = regions.Cut(c.In("q")), k = regions.Cut(c.In("k"));
  const Array similar = MatMul(regions.Means(q), regions.Means(k).T());
  PartCall attention(c, "block_sparse_attention");
  attention.In("q", q).In("k", k).In("v", regions.Cut(c.In("v"))).PassAttribute("scale");
  attention.In("block_mask", Largest(similar, {}, c.integer("top_k")).Unsqueeze(1));
  attention.Set("block_size_q", regions.size()).Set("block_size_k", regions.size());
  Array o = regions.Join(attention.Out("o"));
  if (c.has("lepe_weight")) {
    o = o + Lepe(c.In("v"), c.In("lepe_weight"), c.In("lepe_bias"), regions.height, regions.width);
  }
  c.Out("o", o);
  c.Out("routing", LargestIndices(similar, c.integer("top_k")));
  return c.status();
}

void Draw(RandomSource& source) {
  const int64_t* tokens = source.options().dims.Find("N");
  const int64_t regions = tokens != nullptr ? 1 : source.Uniform(1, 4);
  const bool pads = source.options().random_attributes && source.Uniform(0, 1) == 0;
  int64_t height = regions * source.Uniform(1, 3), width = regions * source.Uniform(1, 4);
  if (pads) {
    height += source.Uniform(0, 3);
    width += source.Uniform(0, 3);
  }
  if (tokens != nullptr) {
    height = 1;
    width = *tokens;
  }
  source.Attribute("height", height);
  source.Attribute("width", width);
  source.Attribute("regions", regions);
  source.Attribute("auto_pad", pads);
  source.Attribute("top_k", source.Uniform(1, regions * regions));
  source.Dim("N", height * width);
  source.Dim("kh", 2 * source.Uniform(0, 2) + 1);
  source.Dim("kw", 2 * source.Uniform(0, 2) + 1);
}

}  // namespace

void RegisterBiLevelRouting(Registry& registry);

void RegisterBiLevelRouting(Registry& registry) {
  registry.AddOfParts(Schema(), Compose).random = Draw;
}

}  // namespace attnd
