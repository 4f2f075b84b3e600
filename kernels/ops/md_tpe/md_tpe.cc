#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/grid.h"
#include "kernels/cores/rms_norm.h"
#include "kernels/primitives/composer.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "md_tpe",
      .paper =
          "You Only Scan Once: Efficient Multi-dimension Sequential Modeling with LightNet (2024)",
      .summary = "Positions of a grid of tokens by a learned decayed sum along each axis",
      .core = "scan",
      .definition =
          R"(Positions of a grid of tokens by a decayed sum along each axis (Qin et al., "You Only Scan Once", 2024).
  acc_t = sigmoid(log_decay) acc_{t-1} + x_t,  z_t = scale (q·k) acc_t,  y = sum over axes of
  w_o norm(z))",
      .inputs = {"x: float[B,N,D]  # tokens row-major over the axes",
                 "q: float32[A,D]  # A axes: depth, height, width, as far as they are given",
                 "k: float32[A,D]", "log_decay: float32[A,H]  # the decay is sigmoid(log_decay)",
                 "norm_weight: float32[A,D]?  # ones when absent",
                 "w_o: float32[A,D,D]? ~small  # the identity when absent"},
      .attributes = GridAttributes({"scale: float = 1.0  # multiplies q·k",
                                    "eps: float = 1e-5 >= 0  # inside the root of the norm",
                                    "residual: bool = false  # adds x"}),
      .outputs = {"y: float[B,N,D]"},
      .rules = GridRules({"D % H == 0  # heads that divide the channels",
                          "A == select(has(depth), 3, select(has(height), 2, 1))  # a row for each "
                          "axis"},
                         "N"),
      .may_be_zero = "N",
  };
  return schema;
}

absl::Status Compose(Composer& c) {
  const int64_t B = c.dim("B"), N = c.dim("N"), D = c.dim("D"), H = c.dim("H"), A = c.dim("A");
  const int64_t channels = D / H;
  const Array x = c.In("x");
  const Dims grid = GridOf(c.call(), N);
  const Array decay = Sigmoid(c.In("log_decay"));
  const Array dots = Sum((c.In("q") * c.In("k")).Reshape({A, H, channels}), -1) * c.real("scale");
  Array y = c.flag("residual") ? x : c.Zeros({B, N, D});
  for (int64_t axis = 0; axis < A && c.status().ok(); ++axis) {
    // [rows, places along the axis, everything that varies faster].
    int64_t rows = B, faster = 1;
    for (int64_t i = 0; i < axis; ++i) rows *= grid[i];
    for (int64_t i = axis + 1; i < A; ++i) faster *= grid[i];
    const auto per_channel = [&](const Array& heads) {
      return heads.Select(0, axis).Reshape({H, 1}).Expand({H, channels}).Reshape({D});
    };
    // In float64: where a sum nearly cancels the norm would blow its rounding up.
    const Array along = c.Cast(x.Reshape({rows, grid[axis], faster, D}), DType::kFloat64);
    const Array factor = c.Cast(per_channel(decay), DType::kFloat64);
    const Array sums = LinearScan(factor, along) * c.Cast(per_channel(dots), DType::kFloat64);
    const Array normed = RmsNorm(sums.Reshape({B, N, H, channels}), {}, c.real("eps"));
    Array z = c.Cast(normed, c.compute_type()).Reshape({B, N, D});
    if (c.has("norm_weight")) z = z * c.In("norm_weight").Select(0, axis);
    if (c.has("w_o")) z = MatMul(z, c.In("w_o").Select(0, axis).T());
    y = y + z;
  }
  c.Out("y", y);
  return c.status();
}

void Draw(RandomSource& source) {
  const int64_t axes = DrawGrid(source, "N", source.Uniform(0, 3));
  source.Dim("A", std::max<int64_t>(axes, 1));
  const int64_t heads = source.Dim("H", source.Uniform(1, 3));
  // Few channels may come near zero, where a norm makes noise of rounding.
  source.Dim("D", heads * source.Uniform(4, 9));
}

}  // namespace

void RegisterMdTpe(Registry& registry);

void RegisterMdTpe(Registry& registry) { registry.Add(Schema(), Compose).random = Draw; }

}  // namespace attnd
