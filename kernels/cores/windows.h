// Overlapping stretches of a sequence.
#ifndef ATTND_KERNELS_CORES_WINDOWS_H_
#define ATTND_KERNELS_CORES_WINDOWS_H_

#include <cstdint>
#include <utility>

#include "kernels/primitives/composer.h"

namespace attnd {

// x [B,T,..] -> [B,count,size,..], a view: stretch n holds tokens [n step, n step + size), all of
// which there are.
inline Array Windows(Composer& c, const Array& x, int64_t count, int64_t step, int64_t size) {
  const Array whole = c.Contiguous(x);
  if (!whole.defined()) return {};
  const Tensor& tensor = whole.tensor();
  Dims shape = tensor.shape(), strides = tensor.strides();
  shape[1] = size;
  shape.insert(shape.begin() + 1, count);
  strides.insert(strides.begin() + 1, step * tensor.stride(1));
  return {&c, Tensor(tensor.raw(), tensor.dtype(), std::move(shape), std::move(strides),
                     tensor.device(), tensor.owner())};
}

// x [B,T,..] with zeros up to `tokens`.
inline Array PaddedTo(Composer& c, const Array& x, int64_t tokens) {
  if (!x.defined() || x.dim(1) == tokens) return x;
  Dims shape = x.tensor().shape();
  shape[1] = tokens - shape[1];
  return Concat(x, c.Zeros(std::move(shape)), 1);
}

}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_WINDOWS_H_
