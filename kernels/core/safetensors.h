// The safetensors format: named tensors behind a JSON header. Names, types, shapes and places are
// read here, bytes by whoever maps the file.
#ifndef ATTND_KERNELS_CORE_SAFETENSORS_H_
#define ATTND_KERNELS_CORE_SAFETENSORS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/core/dtype.h"
#include "kernels/core/tensor.h"

namespace attnd {

struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::kFloat32;
  Dims shape;
  uint64_t begin = 0;  // Of its bytes, counted from the file's start.
  uint64_t size = 0;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  // In order of their bytes.
  std::map<std::string, std::string> metadata;
};

// Reads the header of a whole file. Every offset is checked against the file's size, every size
// against type and shape. INVALID_ARGUMENT naming the tensor and what is wrong with it.
absl::StatusOr<SafetensorsHeader> ParseSafetensors(absl::string_view file);

// The bytes that stand before the tensors' own, which follow in the order of `entries`; fills in
// their `begin` and `size`. Padded so that the first tensor stands at a multiple of 64 bytes.
std::string FormatSafetensorsHeader(SafetensorsHeader& header);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORE_SAFETENSORS_H_
