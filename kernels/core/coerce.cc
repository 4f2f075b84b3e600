#include "kernels/core/coerce.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace attnd {
namespace {

absl::Status Refuse(const OpSpec& spec, const AttrSpec& attribute, const AttrValue& given,
                    absl::string_view expected) {
  std::string text = ToString(given);
  if (text.size() > 100) text = absl::StrCat(text.substr(0, 100), "...");
  return absl::InvalidArgumentError(
      absl::StrCat(spec.id(), ": ", attribute.name, ": given ", text, ", expected ", expected));
}

// Scalars as lists of one, integers as floats where floats are wanted. nullopt-like failure: a bool
// of false.
bool Widen(AttrType type, AttrValue& value) {
  switch (type) {
    case AttrType::kBool:
      return std::holds_alternative<bool>(value);
    case AttrType::kInt:
      return std::holds_alternative<int64_t>(value);
    case AttrType::kString:
      return std::holds_alternative<std::string>(value);
    case AttrType::kFloat:
      if (const auto* integer = std::get_if<int64_t>(&value)) value = static_cast<double>(*integer);
      return std::holds_alternative<double>(value);
    case AttrType::kBoolList:
      if (const auto* one = std::get_if<bool>(&value)) value = std::vector<bool>{*one};
      break;
    case AttrType::kIntList:
      if (const auto* one = std::get_if<int64_t>(&value)) value = std::vector<int64_t>{*one};
      break;
    case AttrType::kFloatList:
      if (const auto* integer = std::get_if<int64_t>(&value)) {
        value = std::vector<double>{static_cast<double>(*integer)};
      } else if (const auto* one = std::get_if<double>(&value)) {
        value = std::vector<double>{*one};
      } else if (const auto* list = std::get_if<std::vector<int64_t>>(&value)) {
        value = std::vector<double>(list->begin(), list->end());
      }
      break;
  }
  // An empty list says nothing about the type of its entries.
  const bool empty = std::visit(
      [](const auto& held) {
        using T = std::decay_t<decltype(held)>;
        if constexpr (std::is_same_v<T, std::vector<bool>> ||
                      std::is_same_v<T, std::vector<int64_t>> ||
                      std::is_same_v<T, std::vector<double>>) {
          return held.empty();
        } else {
          return false;
        }
      },
      value);
  switch (type) {
    case AttrType::kBoolList:
      if (empty) value = std::vector<bool>();
      return std::holds_alternative<std::vector<bool>>(value);
    case AttrType::kIntList:
      if (empty) value = std::vector<int64_t>();
      return std::holds_alternative<std::vector<int64_t>>(value);
    default:
      if (empty) value = std::vector<double>();
      return std::holds_alternative<std::vector<double>>(value);
  }
}

bool Holds(const AttrSpec::Bound& bound, double value) {
  if (bound.comparison == ">=") return value >= bound.value;
  if (bound.comparison == ">") return value > bound.value;
  if (bound.comparison == "<=") return value <= bound.value;
  return value < bound.value;
}

// Infinity is legal where the schema says so with a bound by it; NaN never is.
bool MayBeInfinite(const AttrSpec& attribute) {
  return std::any_of(attribute.bounds.begin(), attribute.bounds.end(),
                     [](const AttrSpec::Bound& bound) { return std::isinf(bound.value); });
}

bool InBounds(const AttrSpec& attribute, double value) {
  return !std::isnan(value) && (std::isfinite(value) || MayBeInfinite(attribute)) &&
         std::all_of(attribute.bounds.begin(), attribute.bounds.end(),
                     [value](const AttrSpec::Bound& bound) { return Holds(bound, value); });
}

template <typename T>
bool AllInBounds(const AttrSpec& attribute, const std::vector<T>& values) {
  return std::all_of(values.begin(), values.end(), [&attribute](T value) {
    return InBounds(attribute, static_cast<double>(value));
  });
}

bool NumbersInBounds(const AttrSpec& attribute, const AttrValue& value) {
  switch (attribute.type) {
    case AttrType::kInt:
      return InBounds(attribute, static_cast<double>(std::get<int64_t>(value)));
    case AttrType::kFloat:
      return InBounds(attribute, std::get<double>(value));
    case AttrType::kIntList:
      return AllInBounds(attribute, std::get<std::vector<int64_t>>(value));
    case AttrType::kFloatList:
      return AllInBounds(attribute, std::get<std::vector<double>>(value));
    default:
      return true;
  }
}

std::string Expected(const AttrSpec& attribute) {
  if (!attribute.choices.empty()) {
    return absl::StrCat("one of ", absl::StrJoin(attribute.choices, ", "));
  }
  std::string text(Name(attribute.type));
  if ((attribute.type == AttrType::kFloat || attribute.type == AttrType::kFloatList) &&
      !MayBeInfinite(attribute)) {
    absl::StrAppend(&text, ", finite");
  }
  for (const AttrSpec::Bound& bound : attribute.bounds) {
    absl::StrAppend(&text, ", ", bound.comparison, " ", bound.value);
  }
  return text;
}

}  // namespace

absl::StatusOr<AttrValue> CoerceAttribute(const OpSpec& spec, const AttrSpec& attribute,
                                          const AttrValue& given) {
  AttrValue value = given;
  if (!Widen(attribute.type, value) || !NumbersInBounds(attribute, value)) {
    return Refuse(spec, attribute, given, Expected(attribute));
  }
  if (!attribute.choices.empty() &&
      std::find(attribute.choices.begin(), attribute.choices.end(), std::get<std::string>(value)) ==
          attribute.choices.end()) {
    return Refuse(spec, attribute, given, Expected(attribute));
  }
  return value;
}

}  // namespace attnd
