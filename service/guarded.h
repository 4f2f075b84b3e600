#ifndef ATTND_SERVICE_GUARDED_H_
#define ATTND_SERVICE_GUARDED_H_

#include <exception>
#include <new>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace attnd {

// Runs code that may throw (memory, libraries) and turns what it throws into a status.
template <typename Function>
auto Guarded(Function&& function) -> decltype(function()) {
  try {
    return function();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of host memory");
  } catch (const std::exception& e) {
    return absl::InternalError(absl::StrCat("unexpected exception: ", e.what()));
  }
}

}  // namespace attnd

#endif  // ATTND_SERVICE_GUARDED_H_
