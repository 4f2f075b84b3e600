// Typed reading of a checkpoint's config.json.
#ifndef ATTND_MODELS_CONFIG_READER_H_
#define ATTND_MODELS_CONFIG_READER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "nlohmann/json.hpp"

namespace attnd::models {

// Reads keys of one JSON object. A key that is absent or null has its default; the first value of a
// wrong kind is remembered, and reading goes on with defaults: callers ask status() once, at the
// end. Messages are INVALID_ARGUMENT and name the key, what was given and what is expected.
class ConfigReader {
 public:
  // `where` leads every message, "config.json: attn" say. `object` must outlive the reader.
  ConfigReader(const nlohmann::json& object, std::string where);

  bool has(absl::string_view key) const;
  int64_t Positive(absl::string_view key, int64_t otherwise);  // An integer of at least 1.
  double Real(absl::string_view key, double otherwise);        // Finite.
  bool Flag(absl::string_view key, bool otherwise);
  std::string Text(absl::string_view key, absl::string_view otherwise);
  std::vector<int64_t> Integers(absl::string_view key);

  // A key that must be there.
  int64_t Required(absl::string_view key);
  // Refuses every value but `only` (or absence): settings that change the function and that are not
  // built here.
  void Only(absl::string_view key, const nlohmann::json& only);

  // Remembers an error of the caller's, unless there was one before.
  void Fail(absl::string_view key, absl::string_view expected);

  const absl::Status& status() const { return status_; }

 private:
  // Null if the key is absent or null.
  const nlohmann::json* Find(absl::string_view key) const;

  const nlohmann::json& object_;
  const std::string where_;
  absl::Status status_;
};

}  // namespace attnd::models

#endif  // ATTND_MODELS_CONFIG_READER_H_
