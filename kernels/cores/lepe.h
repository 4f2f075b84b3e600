// Locally enhanced positions: a depthwise convolution of the values of an image, added to what
// attention gives (Dong et al., "CSWin Transformer", 2022). Shared by the linear operators of the
// vision literature.
#ifndef ATTND_KERNELS_CORES_LEPE_H_
#define ATTND_KERNELS_CORES_LEPE_H_

#include <cstdint>

#include "kernels/core/tensor.h"
#include "kernels/primitives/composer.h"

namespace attnd {

// v [B,N,H,V] with N = height * width tokens row-major, weight [H V,kh,kw] (kh, kw odd), bias [H V]
// or undefined -> [B,N,H,V]: per channel (head c / V, element c mod V) the cross-correlation of v
// as an image with the channel's kernel, zeros outside the image, plus the bias.
Array Lepe(const Array& v, const Array& weight, const Array& bias, int64_t height, int64_t width);

namespace cpu {

// The same for tokens [begin, begin + count) of one head of one batch row, added to y [count,V]
// float32. v, weight and bias contiguous, of one type.
void AddLepe(const Tensor& v, const Tensor& weight, const Tensor& bias, int64_t height,
             int64_t width, int64_t row, int64_t head, int64_t begin, int64_t count, float* y);

}  // namespace cpu
}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_LEPE_H_
