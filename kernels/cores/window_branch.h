// The branch of softmax attention in a window that linearised models keep beside a recurrence: its
// own rotated queries and keys, and a ring of the last tokens for a state.
#ifndef ATTND_KERNELS_CORES_WINDOW_BRANCH_H_
#define ATTND_KERNELS_CORES_WINDOW_BRANCH_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/core/part_call.h"
#include "kernels/core/random_call.h"

namespace attnd {

// `own` ports, then q_rope and k_rope, and the ring of C slots: initial_state_k, _v and _pos.
std::vector<std::string> WindowInputs(std::vector<std::string> own);
// The ring alone, for operators without rotated forms.
std::vector<std::string> RingInputs(std::vector<std::string> own);
// `own` outputs, then final_state_k, _v and _pos.
std::vector<std::string> WindowOutputs(std::vector<std::string> own);
// `own` rules, then: both rotated forms or none, all of the ring or none of it.
std::vector<std::string> WindowRules(std::vector<std::string> own);
std::vector<std::string> RingRules(std::vector<std::string> own);

// Causal softmax attention of q_rope (else q) to k_rope (else k) and v, to `left` tokens before the
// query, from the composer's ring, with its attribute scale: o, final_state_k, ...
PartCall WindowBranch(Composer& c, int64_t left);
// Writes the ring that the branch leaves.
void WindowStates(Composer& c, PartCall& window);

// For random hooks: the ring's inputs all or none, with counts of tokens of rings that have come
// round some times.
void DrawWindow(RandomSource& source, int64_t slots);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_WINDOW_BRANCH_H_
