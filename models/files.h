// Small text files of a model's folder.
#ifndef ATTND_MODELS_FILES_H_
#define ATTND_MODELS_FILES_H_

#include <string>

#include "absl/status/statusor.h"

namespace attnd::models {

// NOT_FOUND naming the file (without its folder), INVALID_ARGUMENT above 64 MiB.
absl::StatusOr<std::string> ReadTextFile(const std::string& path);

}  // namespace attnd::models

#endif  // ATTND_MODELS_FILES_H_
