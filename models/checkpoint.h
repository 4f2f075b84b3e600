// Weights on disk: model.safetensors, or shards behind model.safetensors.index.json.
#ifndef ATTND_MODELS_CHECKPOINT_H_
#define ATTND_MODELS_CHECKPOINT_H_

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/core/tensor.h"

namespace attnd::models {

// Tensors are views on the mapped files, which stay mapped as long as any view lives. Every tensor
// is taken once; what is left at the end was not understood, and the checkpoint is refused.
class Checkpoint {
 public:
  // NOT_FOUND without such files, INVALID_ARGUMENT naming file and tensor for files that are wrong.
  static absl::StatusOr<Checkpoint> Open(const std::string& folder);

  bool has(absl::string_view name) const { return tensors_.count(std::string(name)) > 0; }

  // The tensor of that name with that shape and a floating type. INVALID_ARGUMENT naming it if it
  // is missing, was taken before, or has another shape or type.
  absl::StatusOr<Tensor> Take(absl::string_view name, absl::Span<const int64_t> shape);

  // INVALID_ARGUMENT naming a tensor that nobody took.
  absl::Status CheckAllTaken() const;

  // SHA-256 over the names, types, shapes and bytes of all tensors, in order of name; lower-case
  // hex.
  const std::string& hash() const { return hash_; }

 private:
  absl::Status AddFile(const std::string& path);

  std::map<std::string, Tensor> tensors_;
  std::string hash_;
};

}  // namespace attnd::models

#endif  // ATTND_MODELS_CHECKPOINT_H_
