#include "kernels/core/attributes.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace attnd {
namespace {

std::string Text(bool value) { return value ? "true" : "false"; }
std::string Text(int64_t value) { return absl::StrCat(value); }
std::string Text(double value) { return absl::StrCat(value); }
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
