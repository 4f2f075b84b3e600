// The count of tokens before a call, which operators with positions keep among their states.
#ifndef ATTND_KERNELS_CORES_TOKENS_SEEN_H_
#define ATTND_KERNELS_CORES_TOKENS_SEEN_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "kernels/core/call.h"

namespace attnd {

// INVALID_ARGUMENT if the int64 input `name`, where given, holds a count below 0 or above 2^53, up
// to which positions are exact in float64 and sums of them cannot overflow.
absl::Status CheckTokensSeen(const BoundCall& call, absl::string_view name);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_TOKENS_SEEN_H_
