#include "kernels/cores/lepe.h"

#include <algorithm>

#include "kernels/cores/image_conv.h"
#include "kernels/primitives/cpu/gemm.h"
#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"

namespace attnd {

Array Lepe(const Array& v, const Array& weight, const Array& bias, int64_t height, int64_t width) {
  if (!v.defined() || !weight.defined()) return {};
  const Array image = v.Reshape({v.dim(0), v.dim(1), v.dim(2) * v.dim(3)});
  return DepthwiseConv(image, weight, bias, height, width).Reshape(v.tensor().shape());
}

namespace cpu {

void AddLepe(const Tensor& v, const Tensor& weight, const Tensor& bias, int64_t height,
             int64_t width, int64_t row, int64_t head, int64_t begin, int64_t count, float* y) {
  const int64_t heads = v.dim(2), size = v.dim(3);
  const int64_t kh = weight.dim(1), kw = weight.dim(2), taps = kh * kw;
  const auto at = [](const Tensor& x, int64_t index) {
    return x.data<char>() + index * static_cast<int64_t>(SizeOf(x.dtype()));
  };
  Scratch scratch;
  float* by_channel = scratch.Take<float>(size * taps);
  float* taps_of = scratch.Take<float>(taps * size);
  float* value = scratch.Take<float>(size);
  LoadRow(at(weight, head * size * taps), weight.dtype(), by_channel, size * taps);
  Transpose(size, taps, by_channel, taps, taps_of, size);
  for (int64_t i = 0; i < count; ++i) {
    float* out = y + i * size;
    if (bias.defined()) {
      LoadRow(at(bias, head * size), bias.dtype(), value, size);
      AddRow(out, value, out, size);
    }
    const int64_t top = (begin + i) / width - kh / 2;
    const int64_t left = (begin + i) % width - kw / 2;
    for (int64_t r = std::max<int64_t>(0, -top); r < std::min(kh, height - top); ++r) {
      for (int64_t c = std::max<int64_t>(0, -left); c < std::min(kw, width - left); ++c) {
        const int64_t token = (top + r) * width + left + c;
        LoadRow(at(v, ((row * v.dim(1) + token) * heads + head) * size), v.dtype(), value, size);
        MulAddRow(taps_of + (r * kw + c) * size, value, out, size);
      }
    }
  }
}

}  // namespace cpu
}  // namespace attnd
