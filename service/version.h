#ifndef ATTND_SERVICE_VERSION_H_
#define ATTND_SERVICE_VERSION_H_

#include "absl/strings/string_view.h"

namespace attnd {

inline constexpr absl::string_view kVersion = "0.1.0";

}  // namespace attnd

#endif  // ATTND_SERVICE_VERSION_H_
