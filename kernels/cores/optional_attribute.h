// Attributes that a call may leave out.
#ifndef ATTND_KERNELS_CORES_OPTIONAL_ATTRIBUTE_H_
#define ATTND_KERNELS_CORES_OPTIONAL_ATTRIBUTE_H_

#include <cstdint>

#include "absl/strings/string_view.h"
#include "kernels/core/call.h"

namespace attnd {

// An integer attribute of the call, or `otherwise` where it was not given.
inline int64_t IntegerOr(const BoundCall& call, absl::string_view name, int64_t otherwise) {
  return call.has_attribute(name) ? call.integer(name) : otherwise;
}

}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_OPTIONAL_ATTRIBUTE_H_
