// Choices of the most promising among blocks, regions or tokens: what sparse operators read. A
// choice is a discontinuous function of its scores, so scores are at least float32; of equal scores
// the lower index is chosen.
#ifndef ATTND_KERNELS_CORES_BLOCK_CHOICE_H_
#define ATTND_KERNELS_CORES_BLOCK_CHOICE_H_

#include <cstdint>

#include "kernels/primitives/composer.h"

namespace attnd {

// bool, of the shape of `scores`: the `count` largest of every last axis among those that `allowed`
// (bool, broadcasts to it; undefined: all) grants, or as many as it grants. A score that is NaN is
// the least.
Array Largest(const Array& scores, const Array& allowed, int64_t count);

// int64 [..,count]: the indices of the `count` largest of every last axis, largest first, at most
// as many as there are.
Array LargestIndices(const Array& scores, int64_t count);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_BLOCK_CHOICE_H_
