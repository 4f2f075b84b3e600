// Attribute values of a call: the typed constants beside its tensors.
#ifndef ATTND_KERNELS_CORE_ATTRIBUTES_H_
#define ATTND_KERNELS_CORE_ATTRIBUTES_H_

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/string_view.h"

namespace attnd {

using AttrValue = std::variant<bool, int64_t, double, std::string, std::vector<bool>,
                               std::vector<int64_t>, std::vector<double>>;

// "true", "3", "0.5", "'relu'", "[1, 2]".
std::string ToString(const AttrValue& value);

// A short list of named things. Operators have at most 32 ports and 64 attributes, so a scan beats
// a hash table, and the order of declaration is kept.
template <typename T>
class Named {
 public:
  const T* Find(absl::string_view name) const {
    for (const auto& entry : entries_) {
      if (entry.first == name) return &entry.second;
    }
    return nullptr;
  }
  T* Find(absl::string_view name) {
    return const_cast<T*>(static_cast<const Named*>(this)->Find(name));
  }
  // Replaces the entry of that name, or appends one.
  void Set(absl::string_view name, T value) {
    if (T* found = Find(name)) {
      *found = std::move(value);
    } else {
      entries_.emplace_back(std::string(name), std::move(value));
    }
  }
  void Erase(absl::string_view name) {
    std::erase_if(entries_, [name](const auto& entry) { return entry.first == name; });
  }
  bool contains(absl::string_view name) const { return Find(name) != nullptr; }
  bool empty() const { return entries_.empty(); }
  size_t size() const { return entries_.size(); }
  auto begin() const { return entries_.begin(); }
  auto end() const { return entries_.end(); }
  auto begin() { return entries_.begin(); }
  auto end() { return entries_.end(); }

 private:
  std::vector<std::pair<std::string, T>> entries_;
};

using Attributes = Named<AttrValue>;

}  // namespace attnd

#endif  // ATTND_KERNELS_CORE_ATTRIBUTES_H_
