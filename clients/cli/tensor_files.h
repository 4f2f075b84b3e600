// Tensors in files, by the file's extension: .npy (one), .npz and .safetensors (named ones).
#ifndef ATTND_CLIENTS_CLI_TENSOR_FILES_H_
#define ATTND_CLIENTS_CLI_TENSOR_FILES_H_

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "attnd/tensor.h"

namespace attnd::cli {

using Tensors = std::map<std::string, client::Tensor>;

// Errors name the file. NOT_FOUND if it cannot be read, INVALID_ARGUMENT if it is not what its
// extension says.
absl::StatusOr<client::Tensor> ReadTensor(const std::string& path);  // .npy
absl::StatusOr<Tensors> ReadTensors(const std::string& path);        // .npz, .safetensors

// A .npy file takes exactly one tensor.
absl::Status WriteTensors(const std::string& path, const Tensors& tensors);

}  // namespace attnd::cli

#endif  // ATTND_CLIENTS_CLI_TENSOR_FILES_H_
