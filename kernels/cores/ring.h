// Rings: the states of attention in a window. Slot p mod C of a ring of C slots holds the token of
// position p; slots that were never written hold anything.
#ifndef ATTND_KERNELS_CORES_RING_H_
#define ATTND_KERNELS_CORES_RING_H_

#include <cstdint>

#include "kernels/primitives/composer.h"

namespace attnd {

// 0, 1, .. in float64, which holds every integer up to 2^53.
Array Positions(Composer& c, int64_t count);

// The ring [B,C,..] in the order of positions: its last entry is the token before `seen` (float64
// [B], tokens so far). Places before position 0 hold anything.
Array RingInOrder(Composer& c, const Array& ring, const Array& seen);

// bool [B,slots + tokens]: which places of a ring in order, and of the tokens after it, exist.
Array RingExists(Composer& c, int64_t slots, int64_t tokens, const Array& seen);

// The ring after the new tokens x [B,T,..] were written.
Array RingWritten(Composer& c, const Array& ring, const Array& x, const Array& seen);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_RING_H_
