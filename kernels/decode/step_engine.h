// Runs the steps of a model on a device: all rows of a step together, states in its memory.
//
// A row's logits and the states are a function of the weights and of the sequence's tokens, bit for
// bit: products sum over the inner index in one order whatever the number of rows, the recurrence
// walks token by token, and attention meets pages in an order of their positions alone.
#ifndef ATTND_KERNELS_DECODE_STEP_ENGINE_H_
#define ATTND_KERNELS_DECODE_STEP_ENGINE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/core/tensor.h"
#include "kernels/decode/step_program.h"
#include "kernels/primitives/primitives.h"

namespace attnd::decode {

// Positions of a page.
inline constexpr int64_t kPagePositions = 64;

// Floats of one layer's state on the device: of fixed size, and of a page (0: none); the positions
// that a token sees (0: all).
struct DeviceLayout {
  int64_t fixed = 0;
  int64_t page = 0;
  int64_t window = 0;
};

// One layer's state, in the memory of whatever runs it.
struct LayerState {
  Tensor fixed;               // float32 [fixed], zeros at the start.
  std::vector<Tensor> pages;  // float32 [page]; undefined where no token to come sees it.
};

// Tokens of one sequence in a step.
struct StepSequence {
  int64_t position = 0;                 // Of the first token.
  absl::Span<const int32_t> tokens;     // At least one, within the vocabulary.
  absl::Span<const LayerState> layers;  // With pages for all of the tokens.
  // [vocab] for the last token, or [tokens, vocab] with `all_logits`, on the host; null: none.
  float* logits = nullptr;
  bool all_logits = false;
};

// One thread at a time.
class StepEngine {
 public:
  virtual ~StepEngine() = default;

  // By block of the program.
  virtual absl::Span<const DeviceLayout> layouts() const = 0;
  // Advances the states of all sequences (distinct ones) and returns when the logits are there.
  // RESOURCE_EXHAUSTED without memory, before anything ran; INTERNAL if the device failed.
  virtual absl::Status Run(absl::Span<const StepSequence> sequences) = 0;
};

// An engine on the CUDA device of `backend`, which must outlive it, as must what the program views.
// INVALID_ARGUMENT naming the size that its kernels do not take; UNAVAILABLE without the library.
absl::StatusOr<std::unique_ptr<StepEngine>> CreateCudaStepEngine(Backend& backend,
                                                                 const StepProgram& program);

}  // namespace attnd::decode

#endif  // ATTND_KERNELS_DECODE_STEP_ENGINE_H_
