// Values that are not finite in products that mask by zero weights. A token that a query must not
// see has weight 0 there, and 0 times NaN or infinity is NaN: such values are taken out before the
// product, and added afterwards to those who do see them.
#ifndef ATTND_KERNELS_CORES_NON_FINITE_H_
#define ATTND_KERNELS_CORES_NON_FINITE_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace attnd::cpu {

class NonFinite {
 public:
  struct Element {
    int64_t row;
    int64_t column;
    float value;
  };

  // Keeps the elements of rows [n,width] that are NaN or infinite, in place of those that it held,
  // and leaves 0 where they were. Allocates only if there are any.
  void TakeOut(float* rows, int64_t n, int64_t width);

  absl::Span<const Element> elements() const { return elements_; }

  // y[r,:] += weights[r,s] x[s,:] for r >= s, x being what was taken out; weights [count,stride],
  // y [count,width] of TakeOut's width.
  void AddToLaterRows(const float* weights, int64_t stride, int64_t count, float* y) const;
  // state[i,:] += keys[s,i] x[s,:]; keys [n,key_size], state [key_size,width].
  void AddToState(const float* keys, int64_t key_size, float* state) const;

 private:
  int64_t width_ = 0;
  std::vector<Element> elements_;
};

}  // namespace attnd::cpu

#endif  // ATTND_KERNELS_CORES_NON_FINITE_H_
