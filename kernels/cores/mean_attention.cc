#include "kernels/cores/mean_attention.h"

#include <algorithm>
#include <utility>

#include "kernels/core/part_call.h"
#include "kernels/cores/lepe.h"
#include "kernels/cores/rope.h"

namespace attnd {
namespace {

// Of a mean over keys; calls without keys have no queries either.
double MeanWeight(const Array& k) {
  return 1.0 / static_cast<double>(std::max<int64_t>(1, k.dim(1)));
}

PartCall Linear(Composer& c, const Array& q, const Array& k, const Array& v, double scale) {
  PartCall linear(c, "linear_attention");
  linear.In("q", q).In("k", k).In("v", v).Set("causal", false).Set("scale", scale);
  return linear;
}

std::vector<std::string> Joined(std::vector<std::string> own, std::vector<std::string> more) {
  own.insert(own.end(), more.begin(), more.end());
  return own;
}

}  // namespace

Array KeyMass(const Array& q, const Array& k) { return Sum(q * Sum(k, 1), -1); }

Array MeanAttention(Composer& c, const Array& q, const Array& k, const Array& v, double eps,
                    const std::function<Array(const Array&)>& turn) {
  if (!c.status().ok()) return {};
  if (turn) return MeanProduct(c, turn(q), turn(k), v) / (KeyMass(q, k) * MeanWeight(k) + eps);
  return Linear(c, q, k, v, MeanWeight(k)).Set("normalize", true).Set("eps", eps).Out("o");
}

Array MeanProduct(Composer& c, const Array& q, const Array& k, const Array& v, double scale) {
  if (!c.status().ok()) return {};
  return Linear(c, q, k, v, scale * MeanWeight(k)).Out("o");
}

std::function<Array(const Array&)> AxialTurn(Composer& c) {
  if (c.choice("rope") == "none") return {};
  return [&c](const Array& x) {
    if (!x.defined()) return Array();
    const Array angles =
        AxialRopeAngles(c, c.integer("height"), c.integer("width"), x.dim(3), c.real("rope_base"));
    return Rotate(x, RopePairs::kInterleaved, angles.Unsqueeze(1));
  };
}

Array WithLepe(Composer& c, const Array& o, const Array& v) {
  if (!c.has("lepe_weight")) return o;
  return o +
         Lepe(v, c.In("lepe_weight"), c.In("lepe_bias"), c.integer("height"), c.integer("width"));
}

std::vector<std::string> AxialInputs(std::vector<std::string> own) {
  return Joined(std::move(own),
                {"lepe_weight: float[H*V,kh,kw]?  # depthwise kernel over the values as an image",
                 "lepe_bias: float[H*V]? if has(lepe_weight)"});
}

std::vector<std::string> AxialAttributes(std::vector<std::string> own) {
  return Joined(std::move(own), {"rope: {none, axial2d} = none", "rope_base: float = 10000 > 0",
                                 "height: int? >= 1  # of the image; with axial2d or lepe_weight",
                                 "width: int? >= 1  # of the image; with axial2d or lepe_weight"});
}

std::vector<std::string> AxialRules(std::vector<std::string> own) {
  return Joined(
      {"T > 0 -> S > 0  # at least one key",
       "rope == 'axial2d' -> K % 4 == 0  # K a multiple of 4 with axial2d",
       "rope == 'axial2d' || has(lepe_weight) -> has(height) && has(width)  # height and width",
       "rope == 'axial2d' || has(lepe_weight) -> S == T  # as many keys as queries",
       "has(height) && has(width) -> T == height * width  # height * width tokens",
       "has(lepe_weight) -> kh % 2 == 1 && kw % 2 == 1  # odd kernel sizes"},
      std::move(own));
}

int64_t DrawImage(RandomSource& source, absl::string_view tokens) {
  const int64_t* fixed = source.options().dims.Find(tokens);
  const int64_t height = fixed != nullptr ? 1 : source.Uniform(1, 9);
  const int64_t width = fixed != nullptr ? *fixed : source.Uniform(1, 9);
  source.Attribute("height", height);
  source.Attribute("width", width);
  const auto side = [&source](absl::string_view name) {
    return std::get<int64_t>(*source.request().attributes.Find(name));
  };
  return source.Dim(tokens, side("height") * side("width"));
}

void DrawAxial(RandomSource& source) {
  const bool random = source.options().random_attributes;
  if (random) source.Attribute("rope", std::string(source.Uniform(0, 1) == 0 ? "none" : "axial2d"));
  const AttrValue* rope = source.request().attributes.Find("rope");
  const bool turns = rope != nullptr && *rope == AttrValue(std::string("axial2d"));
  if (turns) source.Dim("K", 4 * source.Uniform(1, 10));
  const bool given = source.request().attributes.contains("height");
  if (!given && !turns && source.Uniform(0, 1) == 0) return;
  source.Dim("S", DrawImage(source, "T"));
  source.Dim("kh", 2 * source.Uniform(0, 2) + 1);
  source.Dim("kw", 2 * source.Uniform(0, 2) + 1);
}

}  // namespace attnd
