#include "models/config_reader.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace attnd::models {

using Json = nlohmann::json;

ConfigReader::ConfigReader(const Json& object, std::string where)
    : object_(object), where_(std::move(where)) {
  if (!object.is_object()) {
    status_ = absl::InvalidArgumentError(absl::StrCat(where_, ": given no JSON object"));
  }
}

const Json* ConfigReader::Find(absl::string_view key) const {
  if (!object_.is_object()) return nullptr;
  const auto found = object_.find(std::string(key));
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

bool ConfigReader::has(absl::string_view key) const { return Find(key) != nullptr; }

void ConfigReader::Fail(absl::string_view key, absl::string_view expected) {
  if (!status_.ok()) return;
  const Json* given = Find(key);
  status_ = absl::InvalidArgumentError(absl::StrCat(where_, ": ", key, ": given ",
                                                    given == nullptr ? "nothing" : given->dump(),
                                                    ", expected ", expected));
}

int64_t ConfigReader::Positive(absl::string_view key, int64_t otherwise) {
  const Json* value = Find(key);
  if (value == nullptr) return otherwise;
  constexpr int64_t kMost = int64_t{1} << 40;
  if (value->is_number_integer() && *value >= 1 && *value <= kMost) return value->get<int64_t>();
  Fail(key, "an integer of at least 1");
  return otherwise;
}

int64_t ConfigReader::Required(absl::string_view key) {
  if (!has(key)) Fail(key, "an integer of at least 1");
  return Positive(key, 1);
}

double ConfigReader::Real(absl::string_view key, double otherwise) {
  const Json* value = Find(key);
  if (value == nullptr) return otherwise;
  if (value->is_number() && std::isfinite(value->get<double>())) return value->get<double>();
  Fail(key, "a finite number");
  return otherwise;
}

bool ConfigReader::Flag(absl::string_view key, bool otherwise) {
  const Json* value = Find(key);
  if (value == nullptr) return otherwise;
  if (value->is_boolean()) return value->get<bool>();
  Fail(key, "true or false");
  return otherwise;
}

std::string ConfigReader::Text(absl::string_view key, absl::string_view otherwise) {
  const Json* value = Find(key);
  if (value == nullptr) return std::string(otherwise);
  if (value->is_string()) return value->get<std::string>();
  Fail(key, "a text");
  return std::string(otherwise);
}

std::vector<int64_t> ConfigReader::Integers(absl::string_view key) {
  const Json* value = Find(key);
  std::vector<int64_t> integers;
  if (value == nullptr) return integers;
  bool good = value->is_array();
  for (size_t i = 0; good && i < value->size(); ++i) {
    good = (*value)[i].is_number_integer();
    if (good) integers.push_back((*value)[i].get<int64_t>());
  }
  if (good) return integers;
  Fail(key, "a list of integers");
  return {};
}

void ConfigReader::Only(absl::string_view key, const Json& only) {
  const Json* value = Find(key);
  if (value != nullptr && *value != only) Fail(key, only.is_null() ? "null" : only.dump());
}

}  // namespace attnd::models
