#include <cmath>
#include <vector>

#include "kernels/core/part_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/mean_attention.h"
#include "kernels/cores/softmax_composed.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "gpsa",
      .paper =
          "ConViT: Improving Vision Transformers with Soft Convolutional Inductive Biases "
          "(2021)",
      .summary = "Softmax attention mixed by head with attention to offsets in the image",
      .core = "softmax",
      .definition =
          R"(Softmax attention mixed, by a gate for each head, with a softmax over offsets in the image that starts out as a convolution (d'Ascoli et al., "ConViT", 2021):
  C_ij = softmax_j(scale q_i.k_j),  P_ij = softmax_j(w0 dx + w1 dy + w2 (dx^2 + dy^2) + bias)
  A = (1 - sigmoid(gating)) C + sigmoid(gating) P,  o = A v
P is the product of a softmax along the row and one along the column, since its scores are sums.)",
      .inputs = {"q: float[B,T,H,K]", "k: float[B,T,H,K]", "v: float[B,T,H,V]",
                 "pos_weight: float[H,3]? ~small  # of dx, dy, dx^2 + dy^2; when absent those of a "
                 "convolution's taps",
                 "pos_bias: float[H]?  # added to all scores of position; 0 when absent",
                 "gating: float[H]?  # of position, before the sigmoid; 1 when absent"},
      .attributes = {"height: int >= 1  # of the image", "width: int >= 1  # of the image",
                     "scale: float = 1/sqrt(K)  # multiplies q.k",
                     "locality_strength: float = 1.0  # without pos_weight",
                     "return_attn: bool = false", "return_nonlocality: bool = false"},
      .outputs = {"o: float[B,T,H,V]", "attn: float[B,H,T,T] if return_attn  # A",
                  "nonlocality: float[B,H] if return_nonlocality  # mean distance attended to"},
      .rules = {"T == height * width  # height * width tokens"},
  };
  return schema;
}

// n with n^2 = heads, or the next larger.
int64_t SideOf(int64_t heads) {
  int64_t side = 0;
  while (side * side < heads) ++side;
  return side;
}

absl::Status Check(const BoundCall& call) {
  const int64_t heads = call.dim("H"), side = SideOf(heads);
  if (call.has("pos_weight") || side * side == heads) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("gpsa: pos_weight: given nothing with H=", heads,
                   ", expected pos_weight, or a square number of heads"));
}

// [H,3]; head a + n b looks at the offset (dy, dx) = (a, b) - (n - 1) / 2.
Array PositionWeights(Composer& c) {
  if (c.has("pos_weight")) return c.In("pos_weight");
  const int64_t heads = c.dim("H"), side = SideOf(heads);
  const double centre = static_cast<double>(side - 1) / 2;
  std::vector<double> weights;
  for (int64_t h = 0; h < heads; ++h) {
    const double dy = static_cast<double>(h % side) - centre;
    const double dx = static_cast<double>(h / side) - centre;
    weights.insert(weights.end(), {2 * dx, 2 * dy, -1});
  }
  return c.FromHost(HostTensor<double>({heads, 3}, weights)) * c.real("locality_strength");
}

// Softmax over j of linear d + square d^2, d = j - i, on one axis of the image: [H,size,size].
Array AlongAxis(Composer& c, int64_t size, const Array& linear, const Array& square) {
  const Array place = c.Iota(size);
  const Array d = place - place.Unsqueeze(-1);
  const auto per_head = [](const Array& x) { return x.Unsqueeze(-1).Unsqueeze(-1); };
  return Softmax(per_head(linear) * d + per_head(square) * d * d);
}

// A [B,H,T,T], where it is asked for.
Array Matrix(Composer& c, const Array& rows, const Array& columns, const Array& gate) {
  const int64_t tokens = c.dim("T");
  const Array position =
      (rows.Unsqueeze(2).Unsqueeze(-1) * columns.Unsqueeze(1).Unsqueeze(3))  // [H,h,w,h,w]
          .Reshape({c.dim("H"), tokens, tokens});
  const Array scores =
      MatMul(c.In("q").Transpose(1, 2), c.In("k").Permute({0, 2, 3, 1})) * c.real("scale");
  const Array mixed = Softmax(scores) * (1.0 - gate) + position * gate;
  return mixed / Sum(mixed, -1);
}

// sqrt(dx^2 + dy^2) of all pairs, [T,T].
Array Distances(Composer& c) {
  const int64_t height = c.integer("height"), width = c.integer("width");
  const auto squares = [&c](int64_t size) {
    const Array place = c.Iota(size);
    return Apply(UnaryOp::kSquare, place - place.Unsqueeze(-1));
  };
  const Array sum = squares(height).Unsqueeze(1).Unsqueeze(-1) + squares(width).Unsqueeze(1);
  return Sqrt(sum).Reshape({height * width, height * width});
}

absl::Status Compose(Composer& c) {
  const int64_t batch = c.dim("B"), heads = c.dim("H"), size = c.dim("V");
  const int64_t height = c.integer("height"), width = c.integer("width");
  const Array gate = c.has("gating") ? Sigmoid(c.In("gating")) : Sigmoid(c.Full({heads}, 1));
  const Array weights = PositionWeights(c);  // pos_bias is the same for all keys.
  const Array rows = AlongAxis(c, height, weights.Select(1, 1), weights.Select(1, 2));
  const Array columns = AlongAxis(c, width, weights.Select(1, 0), weights.Select(1, 2));

  PartCall attention(c, "softmax_attention");
  const Array content = attention.Pass("q").Pass("k").Pass("v").PassAttribute("scale").Out("o");
  const Array image = c.In("v").Reshape({batch, height, width, heads, size});
  const Array across = MatMul(columns.Unsqueeze(1), image.Permute({0, 3, 1, 2, 4}));  // [B,H,h,w,V]
  const Array position = MatMul(rows.Unsqueeze(1), across.Transpose(2, 3))            // [B,H,w,h,V]
                             .Permute({0, 3, 2, 1, 4})
                             .Reshape({batch, height * width, heads, size});
  c.Out("o", content * (1.0 - gate).Unsqueeze(-1) + position * gate.Unsqueeze(-1));

  if (c.flag("return_attn") || c.flag("return_nonlocality")) {
    const Array attn = Matrix(c, rows, columns, gate.Unsqueeze(-1).Unsqueeze(-1));
    c.Out("attn", attn);
    if (c.flag("return_nonlocality")) {
      const Array attended = Sum(Sum(attn * Distances(c), -1), -2);
      c.Out("nonlocality", attended.Reshape({batch, heads}) / static_cast<double>(c.dim("T")));
    }
  }
  return c.status();
}

// Small images: far pairs keep weights that float32 holds.
void Draw(RandomSource& source) {
  source.Attribute("locality_strength", 0.3);
  if (!source.Wants("pos_weight")) source.Dim("H", source.Uniform(0, 1) == 0 ? 1 : 4);
  DrawImage(source, "T");
}

}  // namespace

void RegisterGpsa(Registry& registry);

void RegisterGpsa(Registry& registry) {
  Operator& op = registry.AddOfParts(Schema(), Compose);
  op.check = Check;
  op.random = Draw;
}

}  // namespace attnd
