// The safetensors format: named tensors behind a JSON header.
#ifndef ATTND_CLIENTS_CLI_SAFETENSORS_H_
#define ATTND_CLIENTS_CLI_SAFETENSORS_H_

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "attnd/tensor.h"

namespace attnd::cli {

// Every offset is checked against the file. INVALID_ARGUMENT naming the tensor and what is wrong
// with it.
absl::StatusOr<std::map<std::string, client::Tensor>> ParseSafetensors(absl::string_view file);

std::string FormatSafetensors(const std::map<std::string, client::Tensor>& tensors);

}  // namespace attnd::cli

#endif  // ATTND_CLIENTS_CLI_SAFETENSORS_H_
