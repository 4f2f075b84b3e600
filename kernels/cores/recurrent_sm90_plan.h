// How the sequences of a call are cut for the Hopper kernels of the linear recurrence.
//
// A sequence is a row of units of equal length (its last one may be shorter). The state after a
// unit is always e^G S + L, with S the state before it, e^G the unit's decay and L the sum over its
// own tokens, started from zero: in one walk over all units just as when the units' sums are
// computed apart and then combined. So which blocks walk which units changes no bit, and may depend
// on the batch; the length of a unit decides bits, and depends on the sequence's length and its
// heads alone.
#ifndef ATTND_KERNELS_CORES_RECURRENT_SM90_PLAN_H_
#define ATTND_KERNELS_CORES_RECURRENT_SM90_PLAN_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/core/call.h"

namespace attnd::cuda {

inline constexpr int kSm90Chunk = 64;

// Consecutive units of one sequence, walked by one block for each head.
struct Sm90Span {
  int row;
  int begin;  // First token in its row.
  int tokens;
  int state;  // Of the sequence.
  int unit;   // Chunks of a unit.
  int slot;   // Of the first unit, among the units of sequences of several spans.
  int chain;  // Slot of the sequence's first unit.
  int first;  // Whether the sequence begins here: from the initial state.
  int last;   // Whether it ends here: with the final state.
};

// A sequence of several spans: units [slot, slot + units) are summed up on their own, and states
// before units slot + 1 to slot + units follow from them.
struct Sm90Chain {
  int slot;
  int units;
  int state;
};

struct Sm90Plan {
  std::vector<Sm90Span> spans;
  // The spans that are not their sequence's last, by index.
  std::vector<int> summed;
  std::vector<Sm90Chain> chains;
  int slots = 0;
  int longest_chain = 0;  // Units.
};

// Chunks of a unit of a sequence of `tokens`, in a call whose state has `columns` blocks: heads
// times slices of V.
int Sm90UnitChunks(int64_t tokens, int64_t columns);

// Cuts so that about as many blocks run as a device has multiprocessors.
Sm90Plan PlanSm90(absl::Span<const Sequence> sequences, int64_t columns, int multiprocessors);

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CORES_RECURRENT_SM90_PLAN_H_
