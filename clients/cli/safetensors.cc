#include "clients/cli/safetensors.h"

#include <optional>
#include <utility>

#include "kernels/core/safetensors.h"

namespace attnd::cli {
namespace {

using client::Tensor;

// Both sides name types alike.
client::DType ToWire(DType dtype) {
  for (const auto wire : {v1::BOOL, v1::INT32, v1::INT64, v1::FLOAT16, v1::BFLOAT16, v1::FLOAT32}) {
    if (client::Name(wire) == Name(dtype)) return wire;
  }
  return v1::FLOAT64;
}

}  // namespace

absl::StatusOr<std::map<std::string, Tensor>> ParseSafetensors(absl::string_view file) {
  absl::StatusOr<SafetensorsHeader> header = attnd::ParseSafetensors(file);
  if (!header.ok()) return header.status();
  std::map<std::string, Tensor> tensors;
  for (const SafetensorsEntry& entry : header->entries) {
    Tensor& tensor = tensors[entry.name];
    tensor.dtype = ToWire(entry.dtype);
    tensor.shape.assign(entry.shape.begin(), entry.shape.end());
    tensor.bytes = std::string(file.substr(entry.begin, entry.size));
  }
  return tensors;
}

std::string FormatSafetensors(const std::map<std::string, Tensor>& tensors) {
  SafetensorsHeader header;
  for (const auto& [name, tensor] : tensors) {
    const std::optional<DType> dtype = DTypeFromName(client::Name(tensor.dtype));
    header.entries.push_back(
        {name, dtype.value_or(DType::kFloat32), Dims(tensor.shape.begin(), tensor.shape.end())});
  }
  std::string file = FormatSafetensorsHeader(header);
  for (const auto& [name, tensor] : tensors) file += tensor.bytes;
  return file;
}

}  // namespace attnd::cli
