#include "kernels/cores/image_conv.h"

namespace attnd {
namespace {

// x as an image [B,height + kh - 1,width + kw - 1,C] with zeros around it.
Array Padded(const Array& x, int64_t height, int64_t width, int64_t kh, int64_t kw) {
  const int64_t rows = x.dim(0), channels = x.dim(2);
  const Array padded = x.composer()->Zeros({rows, height + kh - 1, width + kw - 1, channels});
  padded.Slice(1, kh / 2, height)
      .Slice(2, kw / 2, width)
      .Assign(x.Reshape({rows, height, width, channels}));
  return padded;
}

}  // namespace

Array DepthwiseConv(const Array& x, const Array& weight, const Array& bias, int64_t height,
                    int64_t width) {
  if (!x.defined() || !weight.defined()) return {};
  Composer& c = *x.composer();
  const bool own = weight.rank() == 4;
  const int64_t kh = weight.dim(-2), kw = weight.dim(-1);
  const Array padded = Padded(x, height, width, kh, kw);
  Array sum = c.Zeros({x.dim(0), height, width, x.dim(2)});
  if (bias.defined()) sum = sum + bias;
  for (int64_t r = 0; r < kh; ++r) {
    for (int64_t s = 0; s < kw; ++s) {
      const Array tap = weight.Select(-1, s).Select(-1, r);  // [C] or [B,C]
      sum = sum + padded.Slice(1, r, height).Slice(2, s, width) *
                      (own ? tap.Unsqueeze(1).Unsqueeze(1) : tap);
    }
  }
  return sum.Reshape(x.tensor().shape());
}

Array Conv(const Array& x, const Array& weight, int64_t height, int64_t width) {
  if (!x.defined() || !weight.defined()) return {};
  const int64_t kh = weight.dim(2), kw = weight.dim(3);
  const Array padded = Padded(x, height, width, kh, kw);
  Array sum = x.composer()->Zeros({x.dim(0), height, width, weight.dim(0)});
  for (int64_t r = 0; r < kh; ++r) {
    for (int64_t s = 0; s < kw; ++s) {
      sum = sum + MatMul(padded.Slice(1, r, height).Slice(2, s, width),
                         weight.Select(-1, s).Select(-1, r).T());
    }
  }
  return sum.Reshape({x.dim(0), x.dim(1), weight.dim(0)});
}

}  // namespace attnd
