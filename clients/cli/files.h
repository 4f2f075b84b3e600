// Whole files.
#ifndef ATTND_CLIENTS_CLI_FILES_H_
#define ATTND_CLIENTS_CLI_FILES_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace attnd::cli {

// Errors name the file; NOT_FOUND if it cannot be read.
absl::StatusOr<std::string> ReadFile(const std::string& path);
absl::Status WriteFile(const std::string& path, absl::string_view text);

}  // namespace attnd::cli

#endif  // ATTND_CLIENTS_CLI_FILES_H_
