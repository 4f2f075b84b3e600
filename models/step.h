// One step of a model: rows of tokens of several sequences, side by side.
#ifndef ATTND_MODELS_STEP_H_
#define ATTND_MODELS_STEP_H_

#include <cstdint>
#include <vector>

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

// Some of a step's sequences: a step of their own, rows counted from 0.
struct StepGroup {
  size_t first;  // Of the step's segments.
  std::vector<Segment> segments;
  int64_t rows = 0;
};

// The step cut between sequences into at most `most` groups of nearly as many rows each, none too
// few for products with as little work a row as one large product has; one group where that cannot
// be.
std::vector<StepGroup> Split(const Step& step, int64_t most);

}  // namespace attnd::models

#endif  // ATTND_MODELS_STEP_H_
