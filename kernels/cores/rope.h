// Rotary positions: pairs of channels turned by angles that grow with a token's place. Angles are
// float64 everywhere and only their cosines and sines are rounded, so that far positions keep their
// digits.
#ifndef ATTND_KERNELS_CORES_ROPE_H_
#define ATTND_KERNELS_CORES_ROPE_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/primitives/composer.h"

namespace attnd {

// Which channels of a row of K form pair p, p < K/2.
enum class RopePairs : uint8_t {
  kHalf,         // (p, p + K/2)
  kInterleaved,  // (2p, 2p + 1)
};

// Angle per unit of position of each of the K/2 pairs; K is even. kHalf: base^(-2p/K).
// kInterleaved: base^(-p/(K/2 - 1)), both ends included, and 1 for K = 2.
std::vector<double> RopeFrequencies(RopePairs pairs, int64_t key_size, double base);

// Angles of positions: positions [..] of any type -> float64 [..,K/2], position times frequency.
Array RopeAngles(const Array& positions, absl::Span<const double> frequencies);

// Angles of the tokens of an image: float64 [height * width, 2n] for n frequencies, tokens
// row-major. The first n pairs turn with the token's row, the others with its column.
Array AxialRopeAngles(Composer& c, int64_t height, int64_t width,
                      absl::Span<const double> frequencies);

// The same for rows of K channels, a multiple of 4, with the K/4 frequencies of kInterleaved for
// K/2 channels (Fan et al., "Rectifying Magnitude Neglect in Linear Attention", 2025).
Array AxialRopeAngles(Composer& c, int64_t height, int64_t width, int64_t key_size, double base);

// x [..,K] with every pair turned: (a, b) -> (a cos - b sin, b cos + a sin); float64 angles that
// broadcast to [..,K/2].
Array Rotate(const Array& x, RopePairs pairs, const Array& angles);

// x [..,K] with halves [a | b] as [-b | a], K even: what is multiplied by the sines where a caller
// gives a factor for every channel.
Array RotatedHalves(const Array& x);

namespace cpu {

// cos[i], sin[i] of position * frequencies[i].
void RopeRow(absl::Span<const double> frequencies, double position, float* cos, float* sin);

// Turns one row of `key_size` channels in place; cos and sin [key_size / 2].
void RotateRow(RopePairs pairs, const float* cos, const float* sin, int64_t key_size, float* row);

}  // namespace cpu
}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_ROPE_H_
