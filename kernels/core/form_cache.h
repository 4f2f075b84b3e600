// Forms that calls of an operator had lately. Validation reads a schema, which takes longer than
// the arithmetic of a small call; most callers send the same form again and again.
#ifndef ATTND_KERNELS_CORE_FORM_CACHE_H_
#define ATTND_KERNELS_CORE_FORM_CACHE_H_

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "kernels/core/call.h"

namespace attnd {

// Everything of a request that decides its form: names, types and shapes of inputs, and attributes.
// False, with `key` left unspecified, if it names anything that the schema does not: such a request
// has none.
bool FormKey(const OpSpec& spec, const CallRequest& request, std::string* key);

// Thread-safe, and bounded: when full it starts anew.
class FormCache {
 public:
  // Null if it is not there.
  std::shared_ptr<const CallForm> Find(absl::string_view key) const;
  void Add(std::string key, std::shared_ptr<const CallForm> form);

 private:
  mutable absl::Mutex mu_;
  absl::flat_hash_map<std::string, std::shared_ptr<const CallForm>> forms_ ABSL_GUARDED_BY(mu_);
};

}  // namespace attnd

#endif  // ATTND_KERNELS_CORE_FORM_CACHE_H_
