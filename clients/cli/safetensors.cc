#include "clients/cli/safetensors.h"

#include <array>
#include <cstdint>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace attnd::cli {
namespace {

using client::DType;
using client::Tensor;
using Json = nlohmann::ordered_json;

struct TypeName {
  const char* name;
  DType dtype;
};

constexpr std::array<TypeName, 7> kTypes = {{{"BOOL", v1::BOOL},
                                             {"I32", v1::INT32},
                                             {"I64", v1::INT64},
                                             {"F16", v1::FLOAT16},
                                             {"BF16", v1::BFLOAT16},
                                             {"F32", v1::FLOAT32},
                                             {"F64", v1::FLOAT64}}};

// Other than data, a header holds nothing: 100 MB is the format's own limit.
constexpr uint64_t kMaxHeader = 100'000'000;

// The length of the header, little-endian.
uint64_t LoadLength(absl::string_view bytes) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

std::string StoreLength(uint64_t value) {
  std::string bytes(8, '\0');
  for (char& byte : bytes) {
    byte = static_cast<char>(value & 0xff);
    value >>= 8;
  }
  return bytes;
}

absl::Status Bad(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("safetensors: ", what));
}

absl::StatusOr<Tensor> ParseEntry(const std::string& name, const Json& entry,
                                  absl::string_view data) {
  const auto bad = [&](absl::string_view what) { return Bad(absl::StrCat(name, ": ", what)); };
  if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape") ||
      !entry.contains("data_offsets")) {
    return bad("given an entry without dtype, shape or data_offsets");
  }
  Tensor tensor;
  tensor.dtype = v1::DATA_TYPE_UNSPECIFIED;
  for (const TypeName& type : kTypes) {
    if (entry["dtype"] == type.name) tensor.dtype = type.dtype;
  }
  if (tensor.dtype == v1::DATA_TYPE_UNSPECIFIED) {
    return bad(absl::StrCat("given dtype ", entry["dtype"].dump(),
                            ", expected BOOL, I32, I64, F16, BF16, F32 or F64"));
  }
  const Json& shape = entry["shape"];
  if (!shape.is_array()) return bad("the shape is no list");
  for (const Json& size : shape) {
    if (!size.is_number_unsigned() ||
        size.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return bad(absl::StrCat("the shape holds ", size.dump(), ", which is no size"));
    }
    tensor.shape.push_back(size.get<int64_t>());
  }
  const Json& offsets = entry["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned()) {
    return bad("data_offsets are not two numbers");
  }
  const uint64_t begin = offsets[0].get<uint64_t>();
  const uint64_t end = offsets[1].get<uint64_t>();
  if (begin > end || end > data.size()) {
    return bad(absl::StrCat("given bytes [", begin, ", ", end, ") of ", data.size()));
  }
  const auto bytes = client::ByteSize(tensor.dtype, tensor.shape);
  if (!bytes.ok()) return bad(bytes.status().message());
  if (end - begin != static_cast<uint64_t>(*bytes)) {
    return bad(absl::StrCat(tensor.DebugString(), " has ", *bytes, " bytes, given ", end - begin));
  }
  tensor.bytes = std::string(data.substr(begin, end - begin));
  return tensor;
}

}  // namespace

absl::StatusOr<std::map<std::string, Tensor>> ParseSafetensors(absl::string_view file) {
  if (file.size() < 8) return Bad("the file is shorter than 8 bytes");
  const uint64_t length = LoadLength(file);
  if (length > kMaxHeader || length > file.size() - 8) {
    return Bad(absl::StrCat("given a header of ", length, " bytes in a file of ", file.size()));
  }
  const Json header = Json::parse(file.substr(8, length), nullptr, /*allow_exceptions=*/false);
  if (!header.is_object()) return Bad("the header is no JSON object");
  const absl::string_view data = file.substr(8 + length);
  std::map<std::string, Tensor> tensors;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    auto tensor = ParseEntry(name, entry, data);
    if (!tensor.ok()) return tensor.status();
    tensors[name] = *std::move(tensor);
  }
  return tensors;
}

std::string FormatSafetensors(const std::map<std::string, Tensor>& tensors) {
  Json header = Json::object();
  uint64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    const char* type = "";
    for (const TypeName& entry : kTypes) {
      if (entry.dtype == tensor.dtype) type = entry.name;
    }
    header[name] = {{"dtype", type},
                    {"shape", tensor.shape},
                    {"data_offsets", {offset, offset + tensor.bytes.size()}}};
    offset += tensor.bytes.size();
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');  // Data is aligned to 8 bytes.
  std::string file = StoreLength(text.size()) + text;
  for (const auto& [name, tensor] : tensors) file += tensor.bytes;
  return file;
}

}  // namespace attnd::cli
