#include "kernels/cores/grid.h"

#include <variant>

#include "absl/strings/str_cat.h"

namespace attnd {
namespace {

// From the slowest to the fastest.
constexpr const char* kAxes[] = {"depth", "height", "width"};

}  // namespace

std::vector<std::string> GridAttributes(std::vector<std::string> own) {
  own.insert(own.end(), {"height: int? >= 1  # of the grid of tokens", "width: int? >= 1",
                         "depth: int? >= 1"});
  return own;
}

std::vector<std::string> GridRules(const std::vector<std::string>& own, absl::string_view tokens) {
  std::vector<std::string> rules = {"has(height) -> has(width)  # a width with a height",
                                    "has(depth) -> has(height)  # a height with a depth"};
  rules.push_back(absl::StrCat("has(width) -> ", tokens,
                               " == width * select(has(height), height, 1) * select(has(depth), "
                               "depth, 1)  # as many tokens as the grid has"));
  rules.insert(rules.end(), own.begin(), own.end());
  return rules;
}

Dims GridOf(const BoundCall& call, int64_t tokens) {
  Dims grid;
  for (const char* axis : kAxes) {
    if (call.has_attribute(axis)) grid.push_back(call.integer(axis));
  }
  if (grid.empty()) grid.push_back(tokens);
  return grid;
}

int64_t DrawGrid(RandomSource& source, absl::string_view symbol, int64_t axes, int64_t before) {
  int64_t tokens = 1, given = 0;
  for (int64_t i = 0; i < 3; ++i) {
    const char* axis = kAxes[i];
    if (3 - i <= axes) source.Attribute(axis, source.Uniform(1, 6));
    const AttrValue* size = source.request().attributes.Find(axis);
    if (size == nullptr) size = source.options().attributes.Find(axis);
    if (size == nullptr || !std::holds_alternative<int64_t>(*size)) continue;
    tokens *= std::get<int64_t>(*size);
    ++given;
  }
  if (given > 0) source.Dim(symbol, tokens + before);
  return given;
}

}  // namespace attnd
