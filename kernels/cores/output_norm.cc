#include "kernels/cores/output_norm.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace attnd {
namespace {

Array Mean(const Array& x) { return Sum(x, -1) / static_cast<double>(x.dim(-1)); }

}  // namespace

Array OutputNorm(Composer& c, const Array& y) {
  const std::string& norm = c.choice("norm");
  if (norm == "none" || !y.defined()) return y;
  const Dims shape = y.tensor().shape();
  const bool model = c.choice("norm_scope") == "model";
  const Array rows = model ? y.Reshape({shape[0], shape[1], shape[2] * shape[3]}) : y;
  if (!rows.defined()) return {};
  Array x;
  if (norm == "layer") {
    const Array centred = rows - Mean(rows);
    x = centred / Sqrt(Mean(Apply(UnaryOp::kSquare, centred)) + c.real("eps"));
  } else {
    const Array size = Sqrt(Mean(Apply(UnaryOp::kSquare, rows))) + c.real("eps");
    // A row of zeros stays one, whatever eps is. A row with an infinity is NaN as a whole, as one
    // with NaN is: which of the two sums with zero weights make depends on their order.
    x = Where(Equal(size, c.Scalar(0)), rows, rows / (size + size * 0.0));
  }
  if (c.has("norm_weight")) x = x * c.In("norm_weight");
  if (c.has("norm_bias")) x = x + c.In("norm_bias");
  if (norm == "gated_rms") x = x * Sigmoid(c.In("norm_gate") * rows);
  return x.Reshape(shape);
}

std::vector<std::string> OutputNormInputs(std::vector<std::string> own) {
  const auto parameter = [](absl::string_view name, absl::string_view when, absl::string_view doc) {
    return absl::StrCat(name, ": float[select(norm_scope == 'model', HO * V, V)]", when, "  # ",
                        doc);
  };
  own.push_back(parameter("norm_weight", "? if norm != 'none'", "of the norm; ones when absent"));
  own.push_back(parameter("norm_bias", "? if norm != 'none'", "added to the norm"));
  own.push_back(parameter("norm_gate", " if norm == 'gated_rms'", "times sigmoid(norm_gate Y)"));
  return own;
}

std::vector<std::string> OutputNormAttributes(std::vector<std::string> own,
                                              absl::string_view norm) {
  own.push_back(absl::StrCat("norm: {rms, gated_rms, layer, none} = ", norm));
  own.push_back("norm_scope: {model, head} = model  # rows of all heads together, or of each head");
  own.push_back("eps: float = select(norm == 'layer', 1e-5, 1e-8) >= 0  # rms: outside the root");
  return own;
}

}  // namespace attnd
