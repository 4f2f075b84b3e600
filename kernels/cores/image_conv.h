// Convolutions of images, as cross-correlations with zeros around the image: output (y, x) sums
// weight[.., r, c] times the input at (y + r - kh/2, x + c - kw/2). Tokens are the pixels,
// row-major; kernels have odd sides.
#ifndef ATTND_KERNELS_CORES_IMAGE_CONV_H_
#define ATTND_KERNELS_CORES_IMAGE_CONV_H_

#include <cstdint>

#include "kernels/primitives/composer.h"

namespace attnd {

// x [B,N,C] with N = height * width, a kernel for each channel: weight [C,kh,kw], or [B,C,kh,kw]
// for kernels of each image; bias [C] or undefined -> [B,N,C].
Array DepthwiseConv(const Array& x, const Array& weight, const Array& bias, int64_t height,
                    int64_t width);

// Every channel from all: x [B,N,C], weight [D,C,kh,kw] -> [B,N,D].
Array Conv(const Array& x, const Array& weight, int64_t height, int64_t width);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_IMAGE_CONV_H_
