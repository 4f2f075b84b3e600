// Linearised relative positions (Qin et al., "Linearized Relative Positional Encoding", 2023; for
// grids "You Only Scan Once", 2024): a unitary transform of queries and keys by position, so that
// their products depend on the distance alone while attention stays linear.
//
//   cosine: y = [x cos(angle), x sin(angle)]   rotate: (x1, x2) halves of x: y = [x1 cos - x2 sin,
//   x1 sin + x2 cos]
//
// A row of K channels has n angles: K (cosine) or K/2 (rotate). Angles are float64 and only their
// cosines and sines are rounded.
#ifndef ATTND_KERNELS_CORES_LRPE_H_
#define ATTND_KERNELS_CORES_LRPE_H_

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/primitives/composer.h"

namespace attnd {

enum class LrpeKind : uint8_t {
  kCosine,  // Doubles the row.
  kRotate,
};

struct LrpeForm {
  LrpeKind kind;
  int64_t key_size;  // K
  int64_t axes;      // 1, or the number of a grid's axes.

  int64_t angles() const { return kind == LrpeKind::kCosine ? key_size : key_size / 2; }  // n
  // Angles that one axis may fill.
  int64_t per_axis() const { return (angles() + axes - 1) / axes; }
};

// The angles per unit of position, where none are given, with E = form.per_axis(): float64 [1,E],
// base^(-2i/K) (on a grid base^(-2i/E), or base^(-i/E) for rotate).
Array SharedLrpeTheta(Composer& c, const LrpeForm& form, double base);
// Likewise by head: float64 [heads,E], base^(-2 (h E + i) / (heads E)).
Array LrpeThetaByHead(Composer& c, const LrpeForm& form, int64_t heads, double base);

// theta [H or 1,E] -> float64 [B,T,H or 1,n]: (seen + t) theta, 0 beyond E. seen [B], any type, or
// undefined: 0.
Array LrpeAngles(Composer& c, const LrpeForm& form, const Array& theta, const Array& seen,
                 int64_t batch, int64_t tokens);
// Of a grid's tokens, after `prefix` tokens of angle 0: float64 [prefix + product,H or 1,n], the
// first n of the axes' coordinates times theta, one axis after the other.
Array LrpeGridAngles(Composer& c, const LrpeForm& form, const Array& theta,
                     absl::Span<const int64_t> grid, int64_t prefix);

// x [B,T,H,K], angles that broadcast to [B,T,H,n] -> [B,T,H,2K] or [B,T,H,K].
Array EncodeLrpe(const LrpeForm& form, const Array& x, const Array& angles);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_LRPE_H_
