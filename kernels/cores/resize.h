// Linear resizing of images, axis by axis.
#ifndef ATTND_KERNELS_CORES_RESIZE_H_
#define ATTND_KERNELS_CORES_RESIZE_H_

#include <cstdint>

#include "kernels/primitives/composer.h"

namespace attnd {

// x with `axis` of another size: entry t is read at s = (t + 0.5) in / out - 0.5, between its
// neighbours floor(s) and floor(s) + 1, which are held at the edges. Bilinear where done on both
// axes of an image.
Array ResizeLinear(const Array& x, int axis, int64_t size);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_RESIZE_H_
