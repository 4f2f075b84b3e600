// Suggestions for misspelt names.
#ifndef ATTND_KERNELS_CORE_NEAREST_H_
#define ATTND_KERNELS_CORE_NEAREST_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace attnd {

// Up to three of `known`, nearest to `name` first, joined by ", ".
std::string NearestNames(absl::string_view name, const std::vector<absl::string_view>& known);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORE_NEAREST_H_
