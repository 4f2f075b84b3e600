#include "kernels/cores/resize.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace attnd {

Array ResizeLinear(const Array& x, int axis, int64_t size) {
  if (!x.defined() || x.dim(axis) == size) return x;
  Composer& c = *x.composer();
  const int64_t given = x.dim(axis);
  std::vector<int64_t> below, above;
  std::vector<double> shares;
  for (int64_t t = 0; t < size; ++t) {
    const double at =
        (static_cast<double>(t) + 0.5) * static_cast<double>(given) / static_cast<double>(size) -
        0.5;
    const auto floor = static_cast<int64_t>(std::floor(at));
    below.push_back(std::clamp<int64_t>(floor, 0, given - 1));
    above.push_back(std::clamp<int64_t>(floor + 1, 0, given - 1));
    shares.push_back(at - static_cast<double>(floor));
  }
  const auto taken = [&](const std::vector<int64_t>& index) {
    return Gather(x, c.FromHost(HostTensor<int64_t>({size}, index)), axis);
  };
  Dims shape(static_cast<size_t>(x.rank()), 1);
  shape[static_cast<size_t>(axis < 0 ? axis + x.rank() : axis)] = size;
  const Array low = taken(below);
  // Equal neighbours give themselves, to the last bit.
  return low + (taken(above) - low) * c.FromHost(HostTensor<double>({size}, shares)).Reshape(shape);
}

}  // namespace attnd
