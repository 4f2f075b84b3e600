// One step of a model: rows of tokens of several sequences, side by side.
#ifndef ATTND_MODELS_STEP_H_
#define ATTND_MODELS_STEP_H_

#include <cstdint>

#include "absl/types/span.h"
#include "models/sequence_state.h"

namespace attnd::models {

// Consecutive tokens of one sequence: rows [row, row + count) of the step, positions
// state->position() and on.
struct Segment {
  SequenceState* state;
  int64_t row;
  int64_t count;
};

struct Step {
  absl::Span<const Segment> segments;
  int64_t rows = 0;
};

}  // namespace attnd::models

#endif  // ATTND_MODELS_STEP_H_
