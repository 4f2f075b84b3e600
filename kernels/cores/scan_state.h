// The state that a scan hands on.
#ifndef ATTND_KERNELS_CORES_SCAN_STATE_H_
#define ATTND_KERNELS_CORES_SCAN_STATE_H_

#include <utility>

#include "kernels/primitives/composer.h"

namespace attnd {

// The last token of h [B,T,...]; without tokens the initial state [B,...], or `otherwise` where
// that is undefined.
inline Array LastOr(Composer& c, const Array& h, const Array& initial, double otherwise = 0) {
  if (!h.defined()) return {};
  if (h.dim(1) > 0) return h.Select(1, h.dim(1) - 1);
  if (initial.defined()) return initial;
  Dims shape = h.tensor().shape();
  shape.erase(shape.begin() + 1);
  return c.Full(std::move(shape), otherwise);
}

}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_SCAN_STATE_H_
