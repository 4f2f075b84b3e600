#include "kernels/core/safetensors.h"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace attnd {
namespace {

using Json = nlohmann::ordered_json;

struct TypeName {
  const char* name;
  DType dtype;
};

constexpr std::array<TypeName, 7> kTypes = {{{"BOOL", DType::kBool},
                                             {"I32", DType::kInt32},
                                             {"I64", DType::kInt64},
                                             {"F16", DType::kFloat16},
                                             {"BF16", DType::kBFloat16},
                                             {"F32", DType::kFloat32},
                                             {"F64", DType::kFloat64}}};

constexpr size_t kLengthSize = 8;
// The format's own limit.
constexpr uint64_t kMaxHeader = 100'000'000;
constexpr size_t kAlign = 64;

// The length of the header, little-endian.
uint64_t LoadLength(absl::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = kLengthSize; i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

std::string StoreLength(uint64_t value) {
  std::string bytes(kLengthSize, '\0');
  for (char& byte : bytes) {
    byte = static_cast<char>(value & 0xff);
    value >>= 8;
  }
  return bytes;
}

absl::Status Bad(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("safetensors: ", what));
}

// `data` counts the bytes behind the header.
absl::StatusOr<SafetensorsEntry> ParseEntry(const std::string& name, const Json& json,
                                            uint64_t data) {
  const auto bad = [&](absl::string_view what) { return Bad(absl::StrCat(name, ": ", what)); };
  if (!json.is_object() || !json.contains("dtype") || !json.contains("shape") ||
      !json.contains("data_offsets")) {
    return bad("given an entry without dtype, shape or data_offsets");
  }
  SafetensorsEntry entry;
  entry.name = name;
  const auto* type = std::find_if(kTypes.begin(), kTypes.end(),
                                  [&](const TypeName& t) { return json["dtype"] == t.name; });
  if (type == kTypes.end()) {
    return bad(absl::StrCat("given dtype ", json["dtype"].dump(),
                            ", expected BOOL, I32, I64, F16, BF16, F32 or F64"));
  }
  entry.dtype = type->dtype;
  const Json& shape = json["shape"];
  if (!shape.is_array()) return bad("the shape is no list");
  for (const Json& size : shape) {
    if (!size.is_number_unsigned() ||
        size.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return bad(absl::StrCat("the shape holds ", size.dump(), ", which is no size"));
    }
    entry.shape.push_back(size.get<int64_t>());
  }
  const Json& offsets = json["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned()) {
    return bad("data_offsets are not two numbers");
  }
  entry.begin = offsets[0].get<uint64_t>();
  const uint64_t end = offsets[1].get<uint64_t>();
  if (entry.begin > end || end > data) {
    return bad(absl::StrCat("given bytes [", entry.begin, ", ", end, ") of ", data));
  }
  entry.size = end - entry.begin;
  const absl::StatusOr<int64_t> bytes = CheckedByteSize(entry.dtype, entry.shape);
  if (!bytes.ok()) return bad(bytes.status().message());
  if (entry.size != static_cast<uint64_t>(*bytes)) {
    return bad(absl::StrCat(Name(entry.dtype), ToString(entry.shape), " has ", *bytes,
                            " bytes, given ", entry.size));
  }
  return entry;
}

}  // namespace

absl::StatusOr<SafetensorsHeader> ParseSafetensors(absl::string_view file) {
  if (file.size() < kLengthSize)
    return Bad(absl::StrCat("given a file of ", file.size(), " bytes"));
  const uint64_t length = LoadLength(file);
  if (length > kMaxHeader || length > file.size() - kLengthSize) {
    return Bad(absl::StrCat("given a header of ", length, " bytes in a file of ", file.size()));
  }
  const absl::string_view text = file.substr(kLengthSize, length);
  const Json json = Json::parse(text.begin(), text.end(), nullptr, false);
  if (!json.is_object()) return Bad("the header is no JSON object");
  SafetensorsHeader header;
  const uint64_t start = kLengthSize + length;
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__") {
      if (!value.is_object()) return Bad("__metadata__ is no object");
      for (const auto& [key, text_value] : value.items()) {
        if (!text_value.is_string()) return Bad(absl::StrCat("__metadata__: ", key, " is no text"));
        header.metadata[key] = text_value.get<std::string>();
      }
      continue;
    }
    absl::StatusOr<SafetensorsEntry> entry = ParseEntry(name, value, file.size() - start);
    if (!entry.ok()) return entry.status();
    entry->begin += start;
    header.entries.push_back(*std::move(entry));
  }
  std::stable_sort(header.entries.begin(), header.entries.end(),
                   [](const auto& a, const auto& b) { return a.begin < b.begin; });
  return header;
}

std::string FormatSafetensorsHeader(SafetensorsHeader& header) {
  Json json = Json::object();
  if (!header.metadata.empty()) json["__metadata__"] = header.metadata;
  uint64_t at = 0;
  for (SafetensorsEntry& entry : header.entries) {
    entry.begin = at;
    entry.size = static_cast<uint64_t>(CheckedByteSize(entry.dtype, entry.shape).value());
    at += entry.size;
    const auto* type = std::find_if(kTypes.begin(), kTypes.end(),
                                    [&](const TypeName& t) { return t.dtype == entry.dtype; });
    json[entry.name] = {{"dtype", type->name},
                        {"shape", std::vector<int64_t>(entry.shape.begin(), entry.shape.end())},
                        {"data_offsets", {entry.begin, at}}};
  }
  std::string text = json.dump();
  const size_t whole = (kLengthSize + text.size() + kAlign - 1) / kAlign * kAlign;
  text.resize(whole - kLengthSize, ' ');
  for (SafetensorsEntry& entry : header.entries) entry.begin += whole;
  return StoreLength(text.size()) + text;
}

}  // namespace attnd
