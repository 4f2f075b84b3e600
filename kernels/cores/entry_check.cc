#include "kernels/cores/entry_check.h"

#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"

namespace attnd {
namespace {

// "1,0,3" of an offset into a contiguous tensor.
std::string IndexText(const Tensor& tensor, int64_t offset) {
  std::string text;
  for (int axis = tensor.rank() - 1; axis >= 0; --axis) {
    const int64_t index = offset % tensor.dim(axis);
    offset /= tensor.dim(axis);
    text = text.empty() ? absl::StrCat(index) : absl::StrCat(index, ",", text);
  }
  return text;
}

}  // namespace

absl::Status CheckEntries(const BoundCall& call, absl::string_view input,
                          absl::FunctionRef<bool(double)> legal, absl::string_view expected) {
  const Tensor& tensor = call.input(input);
  if (!tensor.defined()) return absl::OkStatus();
  for (int64_t i = 0; i < tensor.num_elements(); ++i) {
    const double value =
        tensor.dtype() == DType::kFloat64 ? tensor.data<double>()[i] : tensor.data<float>()[i];
    if (std::isnan(value) || legal(value)) continue;
    return absl::InvalidArgumentError(absl::StrCat(call.spec().id(), ": ", input, ": given ", input,
                                                   "[", IndexText(tensor, i), "]=", value,
                                                   ", expected ", expected));
  }
  return absl::OkStatus();
}

}  // namespace attnd
