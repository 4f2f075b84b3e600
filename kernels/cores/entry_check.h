// Checks of values that a schema cannot state: bounds on the entries of an input.
#ifndef ATTND_KERNELS_CORES_ENTRY_CHECK_H_
#define ATTND_KERNELS_CORES_ENTRY_CHECK_H_

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "kernels/core/call.h"

namespace attnd {

// INVALID_ARGUMENT that names the first entry of a `float32` input that is not `legal`, with what
// is `expected`. An input that was not given is fine, and so is NaN, which propagates.
absl::Status CheckEntries(const BoundCall& call, absl::string_view input,
                          absl::FunctionRef<bool(double)> legal, absl::string_view expected);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_ENTRY_CHECK_H_
