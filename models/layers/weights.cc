#include "models/layers/weights.h"

#include "absl/strings/str_cat.h"
#include "kernels/primitives/cpu/vector_math.h"

namespace attnd::models {

bool WeightReader::has(absl::string_view name) const {
  return checkpoint_.has(absl::StrCat(prefix_, name));
}

void WeightReader::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

Tensor WeightReader::Take(absl::string_view name, const Dims& shape) {
  absl::StatusOr<Tensor> tensor = checkpoint_.Take(absl::StrCat(prefix_, name), shape);
  if (tensor.ok()) return *std::move(tensor);
  Fail(tensor.status());
  return Tensor();
}

Floats WeightReader::Vector(absl::string_view name, const Dims& shape) {
  const Tensor tensor = Take(name, shape);
  Floats values;
  if (!tensor.defined()) return values;
  values.resize(static_cast<size_t>(tensor.num_elements()));
  cpu::LoadRow(tensor.raw(), tensor.dtype(), values.data(), tensor.num_elements());
  return values;
}

cpu::PackedMatrix WeightReader::Stack(const std::vector<std::pair<std::string, int64_t>>& parts,
                                      int64_t inputs) {
  std::vector<Tensor> tensors;
  for (const auto& [name, outputs] : parts) {
    tensors.push_back(Take(absl::StrCat(name, ".weight"), {outputs, inputs}));
    if (!tensors.back().defined()) return {};
  }
  absl::StatusOr<cpu::PackedMatrix> packed = cpu::PackedMatrix::Pack(tensors);
  if (packed.ok()) return *std::move(packed);
  Fail(packed.status());
  return {};
}

cpu::PackedMatrix WeightReader::Matrix(absl::string_view name, int64_t outputs, int64_t inputs) {
  return Stack({{std::string(name), outputs}}, inputs);
}

std::shared_ptr<const cpu::PackedMatrix> WeightReader::SharedMatrix(absl::string_view name,
                                                                    int64_t outputs,
                                                                    int64_t inputs) {
  return std::make_shared<const cpu::PackedMatrix>(Matrix(name, outputs, inputs));
}

}  // namespace attnd::models
