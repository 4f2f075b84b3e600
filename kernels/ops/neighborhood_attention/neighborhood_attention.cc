#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/neighborhood.h"
#include "kernels/cores/softmax_composed.h"

namespace attnd {
namespace {

// "type[axes]", of a list with an entry for each axis.
std::string PerAxis(absl::string_view name, absl::string_view type, absl::string_view rest) {
  return absl::StrCat(name, ": ", type, "[select(has(depth), 3, select(has(height), 2, 1))]", rest);
}

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "neighborhood_attention",
      .paper = "Neighborhood Attention Transformer (2023)",
      .summary = "Softmax attention of grid tokens to the window of their nearest neighbours",
      .core = "softmax",
      .definition =
          R"(Every token of a grid attends to the window of its nearest neighbours (Hassani et al., "Neighborhood Attention Transformer", 2023) and to extra keys outside the grid. Which neighbours: cores/neighborhood.h. o_i = softmax over them of scale q_i.k_j, times v_j.)",
      .inputs = {"q: float[B,N,H,K]", "k: float[B,N,HK,K]", "v: float[B,N,HV,V]",
                 "k_extra: float[B,E,HK,K]?  # keys outside the grid that every query attends to",
                 "v_extra: float[B,E,HV,V] if has(k_extra)"},
      .attributes = {"depth: int? >= 1  # of a 3-D grid, row-major", "height: int? >= 1",
                     "width: int? >= 1",
                     PerAxis("window", "int", " >= 1  # one for each axis, outermost first"),
                     PerAxis("stride", "int", " = [1] >= 1  # so many neighbours share a window"),
                     PerAxis("dilation", "int", " = [1] >= 1  # one for each axis"),
                     PerAxis("causal", "bool", " = [false]  # one for each axis"),
                     "scale: float = 1/sqrt(K)  # multiplies q.k", "return_lse: bool = false"},
      .outputs = {"o: float[B,N,H,V]", "lse: float32[B,N,H] if return_lse  # ln of the sum"},
      .rules =
          {kQueryHeadsRule, "HV == HK  # as many value heads as key heads",
           "has(height) == has(width)  # height and width, or neither",
           "has(depth) -> has(height)  # depth with height and width",
           "has(depth) && has(height) -> N == depth * height * width  # depth * height * width "
           "tokens",
           "has(height) && !has(depth) -> N == height * width  # height * width tokens"},
      .may_be_zero = "E",
  };
  return schema;
}

// bool [L,L]: which coordinates of the axis attend to which.
Tensor AxisPairs(const NeighborhoodAxis& axis) {
  Tensor pairs = AllocateHost(DType::kBool, {axis.length, axis.length}).value();
  std::fill_n(pairs.data<bool>(), pairs.num_elements(), false);
  for (int64_t x = 0; x < axis.length; ++x) {
    const int64_t group = x % axis.dilation;
    const NeighborhoodAxis::Range range = axis.Neighbours(group, x / axis.dilation);
    for (int64_t member = range.begin; member < range.end; ++member) {
      pairs.data<bool>()[x * axis.length + group + member * axis.dilation] = true;
    }
  }
  return pairs;
}

absl::Status Compose(Composer& c) {
  Array allowed;  // [N,N]: the product of the axes.
  for (const NeighborhoodAxis& axis : NeighborhoodAxes(c.call())) {
    const Array inner = c.FromHost(AxisPairs(axis));
    if (!allowed.defined()) {
      allowed = inner;
      continue;
    }
    const int64_t n = allowed.dim(0), length = axis.length;
    const Array both = allowed.Unsqueeze(1).Unsqueeze(3) && inner.Unsqueeze(1).Unsqueeze(0);
    allowed = both.Reshape({n * length, n * length});
  }
  Array k = c.In("k"), v = c.In("v");
  if (c.has("k_extra")) {
    k = Concat(k, c.In("k_extra"), 1);
    v = Concat(v, c.In("v_extra"), 1);
    const Array all = c.FromHost(HostTensor<bool>({1, 1}, {true}));
    allowed = Concat(allowed, all.Expand({c.dim("N"), c.dim("E")}), 1);
  }
  const SoftmaxResult result = ComposeSoftmax(
      c, {.q = c.In("q"), .k = k, .v = v, .allowed = allowed, .scale = c.real("scale")});
  c.Out("o", result.o);
  c.Out("lse", result.lse);
  return c.status();
}

absl::Status CheckWindows(const BoundCall& call) {
  for (const NeighborhoodAxis& axis : NeighborhoodAxes(call)) {
    if (axis.window > axis.length / axis.dilation) {
      return absl::InvalidArgumentError(absl::StrCat(
          "neighborhood_attention: window: given window ", axis.window, " with dilation ",
          axis.dilation, ", expected window * dilation <= ", axis.length, ", the axis' length"));
    }
    if (axis.stride > axis.window) {
      return absl::InvalidArgumentError(absl::StrCat("neighborhood_attention: stride: given ",
                                                     axis.stride, ", expected at most the window, ",
                                                     axis.window));
    }
  }
  return absl::OkStatus();
}

// A grid of one to three axes with windows that fit it.
void Draw(RandomSource& source) {
  if (source.request().attributes.contains("window")) return;
  const bool random = source.options().random_attributes;
  const int64_t* tokens = source.options().dims.Find("N");
  const int64_t n_axes = tokens != nullptr || !random ? 1 : source.Uniform(1, 3);
  const int64_t longest = n_axes == 1 ? 90 : n_axes == 2 ? 13 : 6;
  std::vector<int64_t> window, stride, dilation;
  std::vector<bool> causal;
  constexpr const char* kNames[] = {"width", "height", "depth"};
  int64_t total = 1;
  for (int64_t i = 0; i < n_axes; ++i) {
    const int64_t length = tokens != nullptr ? *tokens : source.Uniform(1, longest);
    if (n_axes > 1) source.Attribute(kNames[n_axes - 1 - i], length);
    total *= length;
    dilation.push_back(random ? source.Uniform(1, std::min<int64_t>(3, length)) : 1);
    window.push_back(source.Uniform(1, length / dilation.back()));
    stride.push_back(random ? source.Uniform(1, window.back()) : 1);
    causal.push_back(random && source.Uniform(0, 2) == 0);
  }
  source.Dim("N", total);
  source.Attribute("window", window);
  source.Attribute("stride", stride);
  source.Attribute("dilation", dilation);
  source.Attribute("causal", causal);
}

}  // namespace

void RegisterNeighborhoodAttention(Registry& registry);

void RegisterNeighborhoodAttention(Registry& registry) {
  Operator& op = registry.Add(Schema(), Compose);
  op.check = CheckWindows;
  op.random = Draw;
}

}  // namespace attnd
