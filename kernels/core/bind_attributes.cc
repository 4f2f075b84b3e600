// Of a request: its attributes, and defaults for those that are missing.
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/binder.h"
#include "kernels/core/coerce.h"

namespace attnd {
namespace {

template <typename T>
constexpr bool IsVector = false;
template <typename T>
constexpr bool IsVector<std::vector<T>> = true;

bool IsList(const AttrValue& value) {
  return std::visit([](const auto& held) { return IsVector<std::decay_t<decltype(held)>>; }, value);
}

}  // namespace

absl::Status Binder::BindAttributes() {
  for (const AttrSpec& attribute : spec_.attributes()) {
    const AttrValue* given = request_->attributes.Find(attribute.name);
    if (given == nullptr) {
      if (attribute.required()) {
        return Error(attribute.name,
                     absl::StrCat("missing: given nothing, expected ", AfterColon(attribute.text)));
      }
      continue;
    }
    absl::StatusOr<AttrValue> value = CoerceAttribute(spec_, attribute, *given);
    if (!value.ok()) return value.status();
    form_.attributes.Set(attribute.name, *std::move(value));
  }
  if (absl::Status s = FillDefaults(/*final_round=*/false); !s.ok()) return s;
  return SpreadLists();
}

// Lists of a given length get it: a single number, or a default of one entry, stands for all.
absl::Status Binder::SpreadLists() {
  for (const AttrSpec& attribute : spec_.attributes()) {
    AttrValue* const value = form_.attributes.Find(attribute.name);
    if (!attribute.length || value == nullptr) continue;
    const absl::StatusOr<int64_t> length = attribute.length->EvaluateInt(*this);
    if (!length.ok()) return Error(attribute.name, length.status().message());
    const AttrValue* const given = request_->attributes.Find(attribute.name);
    const bool alone = given == nullptr || !IsList(*given);
    const bool fits = std::visit(
        [&](auto& list) {
          if constexpr (!IsVector<std::decay_t<decltype(list)>>) {
            return false;
          } else {
            constexpr int64_t kMostSpread = 64;
            if (alone && list.size() == 1 && *length >= 0 && *length <= kMostSpread) {
              list.resize(static_cast<size_t>(*length), list.front());
            }
            return static_cast<int64_t>(list.size()) == *length;
          }
        },
        *value);
    if (!fits) {
      return Error(attribute.name,
                   absl::StrCat("given ", ToString(*value), ", expected ", *length, " entries",
                                attribute.doc.empty() ? "" : absl::StrCat(": ", attribute.doc)));
    }
  }
  return absl::OkStatus();
}

// Defaults that read sizes wait for the final round.
absl::Status Binder::FillDefaults(bool final_round) {
  for (const AttrSpec& attribute : spec_.attributes()) {
    if (form_.attributes.contains(attribute.name)) continue;
    if (attribute.default_list) {
      form_.attributes.Set(attribute.name, *attribute.default_list);
    } else if (attribute.default_value) {
      absl::StatusOr<AttrValue> value = attribute.default_value->Evaluate(*this);
      if (!value.ok()) {
        if (!final_round) continue;
        return Error(attribute.name, absl::StrCat("its default ", attribute.default_value->text(),
                                                  " has no value: ", value.status().message()));
      }
      value = CoerceAttribute(spec_, attribute, *value);
      if (!value.ok()) return value.status();
      form_.attributes.Set(attribute.name, *std::move(value));
    }
  }
  return absl::OkStatus();
}

}  // namespace attnd
