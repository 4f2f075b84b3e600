// NumPy's .npy format: one array.
#ifndef ATTND_CLIENTS_CLI_NPY_H_
#define ATTND_CLIENTS_CLI_NPY_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "attnd/tensor.h"

namespace attnd::cli {

// Versions 1 to 3, row-major, little-endian. bfloat16 is stored as NumPy stores ml_dtypes.bfloat16:
// "<V2". INVALID_ARGUMENT saying what is wrong with the file.
absl::StatusOr<client::Tensor> ParseNpy(absl::string_view file);

std::string FormatNpy(const client::Tensor& tensor);

}  // namespace attnd::cli

#endif  // ATTND_CLIENTS_CLI_NPY_H_
