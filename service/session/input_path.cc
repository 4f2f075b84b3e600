#include "service/session/input_path.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "models/sha256.h"

namespace attnd {

size_t InputPath::StepsUpTo(uint64_t position) const {
  const auto after =
      std::upper_bound(steps_.begin(), steps_.end(), position,
                       [](uint64_t value, const Step& step) { return value < step.end; });
  return static_cast<size_t>(after - steps_.begin());
}

bool InputPath::HasEnd(uint64_t position) const {
  const size_t count = StepsUpTo(position);
  return position == (count == 0 ? base_ : steps_[count - 1].end);
}

std::string InputPath::HashAt(uint64_t position) const {
  if (!HasEnd(position)) return "";
  const size_t count = StepsUpTo(position);
  return count == 0 ? base_hash_ : steps_[count - 1].hash;
}

std::string InputPath::EndsAround(uint64_t position) const {
  const size_t count = StepsUpTo(position);
  std::string text;
  if (count > 0 || position >= base_)
    text = absl::StrCat(count == 0 ? base_ : steps_[count - 1].end);
  if (count < steps_.size()) absl::StrAppend(&text, text.empty() ? "" : " and ", steps_[count].end);
  if (position < base_) text = absl::StrCat(base_);
  return text;
}

std::string InputPath::EndsFromBase() const {
  std::string text = absl::StrCat(base_);
  if (!steps_.empty()) absl::StrAppend(&text, " and ", steps_.front().end);
  return text;
}

void InputPath::Push(uint64_t length, uint64_t record, absl::string_view digest, uint64_t offset) {
  steps_.push_back({position() + length, record, Sha256(absl::StrCat(hash(), digest)), offset});
}

void InputPath::Truncate(uint64_t position) { steps_.resize(StepsUpTo(position)); }

uint64_t InputPath::CommonWith(const InputPath& other) const {
  // Equal hashes, equal histories: from the end on, since what is alike is alike to its beginning.
  for (size_t i = std::min(StepsUpTo(other.position()), steps_.size()); i > 0; --i) {
    if (other.HashAt(steps_[i - 1].end) == steps_[i - 1].hash) return steps_[i - 1].end;
  }
  return other.HashAt(base_) == base_hash_ ? base_ : 0;
}

}  // namespace attnd
