#include "kernels/core/form_cache.h"

#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "kernels/core/binder.h"

namespace attnd {
namespace {

constexpr size_t kMostForms = 128;

template <typename T>
void Append(const T& value, std::string* key) {
  static_assert(std::is_trivially_copyable_v<T>);
  key->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void Append(const std::string& text, std::string* key) {
  Append(text.size(), key);
  key->append(text);
}

template <typename T>
void Append(const std::vector<T>& values, std::string* key) {
  Append(values.size(), key);
  for (const T value : values) Append(value, key);
}

}  // namespace

bool FormKey(const OpSpec& spec, const CallRequest& request, std::string* key) {
  key->reserve(256);
  size_t known = 0;
  for (const Port& port : spec.inputs()) {
    const Tensor* tensor = request.inputs.Find(port.name);
    Append(tensor != nullptr, key);
    if (tensor == nullptr) continue;
    ++known;
    Append(tensor->dtype(), key);
    Append(tensor->rank(), key);
    for (const int64_t size : tensor->shape()) Append(size, key);
  }
  if (known != request.inputs.size()) return false;
  if (spec.reads_longest()) Append(LongestSequence(request), key);
  known = 0;
  for (const AttrSpec& attribute : spec.attributes()) {
    const AttrValue* value = request.attributes.Find(attribute.name);
    Append(value != nullptr, key);
    if (value == nullptr) continue;
    ++known;
    Append(value->index(), key);
    std::visit([key](const auto& held) { Append(held, key); }, *value);
  }
  return known == request.attributes.size();
}

std::shared_ptr<const CallForm> FormCache::Find(absl::string_view key) const {
  absl::ReaderMutexLock lock(&mu_);
  const auto found = forms_.find(key);
  return found != forms_.end() ? found->second : nullptr;
}

void FormCache::Add(std::string key, std::shared_ptr<const CallForm> form) {
  absl::MutexLock lock(&mu_);
  if (forms_.size() >= kMostForms) forms_.clear();
  forms_.insert_or_assign(std::move(key), std::move(form));
}

}  // namespace attnd
