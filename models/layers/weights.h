// Weights as layers hold them.
#ifndef ATTND_MODELS_LAYERS_WEIGHTS_H_
#define ATTND_MODELS_LAYERS_WEIGHTS_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/primitives/cpu/ordered_product.h"
#include "models/checkpoint.h"

namespace attnd::models {

// A vector in float32.
using Floats = std::vector<float>;

// Takes weights one after the other and remembers the first that is wrong, so that a layer asks
// once.
class WeightReader {
 public:
  WeightReader(Checkpoint& checkpoint, std::string prefix)
      : checkpoint_(checkpoint), prefix_(std::move(prefix)) {}

  bool has(absl::string_view name) const;
  // In the checkpoint's type; undefined after an error.
  Tensor Take(absl::string_view name, const Dims& shape);
  // Any shape whose elements number `size`, as float32; zeros after an error.
  Floats Vector(absl::string_view name, const Dims& shape);
  // Matrices that read the same rows, stacked into one product: names and numbers of outputs.
  cpu::PackedMatrix Stack(const std::vector<std::pair<std::string, int64_t>>& parts,
                          int64_t inputs);
  cpu::PackedMatrix Matrix(absl::string_view name, int64_t outputs, int64_t inputs);
  std::shared_ptr<const cpu::PackedMatrix> SharedMatrix(absl::string_view name, int64_t outputs,
                                                        int64_t inputs);

  void Fail(absl::Status status);
  const absl::Status& status() const { return status_; }

 private:
  Checkpoint& checkpoint_;
  const std::string prefix_;
  absl::Status status_;
};

}  // namespace attnd::models

#endif  // ATTND_MODELS_LAYERS_WEIGHTS_H_
