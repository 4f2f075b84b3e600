#include "kernels/core/attributes.h"

#include <charconv>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace attnd {
namespace {

std::string Text(bool value) { return value ? "true" : "false"; }
std::string Text(int64_t value) { return absl::StrCat(value); }

// The shortest text that reads back as the same number: texts are equal where values are.
std::string Text(double value) {
  char text[32];
  return std::string(text, std::to_chars(text, text + sizeof text, value).ptr);
}

std::string Text(const std::string& value) { return absl::StrCat("'", value, "'"); }

template <typename T>
std::string Text(const std::vector<T>& values) {
  return absl::StrCat(
      "[",
      absl::StrJoin(values, ", ", [](std::string* out, auto value) { out->append(Text(value)); }),
      "]");
}

}  // namespace

std::string ToString(const AttrValue& value) {
  return std::visit([](const auto& held) { return Text(held); }, value);
}

}  // namespace attnd
