// Two kinds of RESOURCE_EXHAUSTED: what a busy server refuses and may take when asked again, and
// what it will never have room for.
#ifndef ATTND_SERVICE_OVERLOAD_H_
#define ATTND_SERVICE_OVERLOAD_H_

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/string_view.h"

namespace attnd {

inline constexpr absl::string_view kOverloadUrl = "attnd.v1/overload";

// RESOURCE_EXHAUSTED of the first kind.
inline absl::Status OverloadError(absl::string_view message) {
  absl::Status status = absl::ResourceExhaustedError(message);
  status.SetPayload(kOverloadUrl, absl::Cord());
  return status;
}

inline bool IsOverload(const absl::Status& status) {
  return status.GetPayload(kOverloadUrl).has_value();
}

}  // namespace attnd

#endif  // ATTND_SERVICE_OVERLOAD_H_
