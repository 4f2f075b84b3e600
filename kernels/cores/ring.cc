#include "kernels/cores/ring.h"

#include <functional>

namespace attnd {
namespace {

Array Double(Composer& c, double value) { return c.Cast(c.Scalar(value), DType::kFloat64); }

// Rows of x in the order that `index_of` (a row's tokens so far, float64 [1]) gives, row by row: an
// index is a row's own.
Array Reordered(Composer& c, const Array& x, const Array& seen, int64_t places,
                const std::function<Array(const Array&)>& index_of) {
  if (!c.status().ok()) return {};
  Dims shape = x.tensor().shape();
  shape[1] = places;
  Array out = c.Empty(x.tensor().dtype(), shape);
  for (int64_t b = 0; b < x.dim(0) && c.status().ok(); ++b) {
    const Array index = c.Cast(index_of(seen.Slice(0, b, 1)), DType::kInt64);
    out.Slice(0, b, 1).Assign(Gather(x.Slice(0, b, 1), index, 1));
  }
  return out;
}

}  // namespace

Array Positions(Composer& c, int64_t count) { return c.Cast(c.Iota(count), DType::kFloat64); }

Array RingInOrder(Composer& c, const Array& ring, const Array& seen) {
  if (!ring.defined()) return {};
  const int64_t slots = ring.dim(1);
  return Reordered(c, ring, seen, slots, [&](const Array& tokens) {
    const Array position = Positions(c, slots) - static_cast<double>(slots) + tokens;
    return Mod(position, Double(c, static_cast<double>(slots)));
  });
}

Array RingExists(Composer& c, int64_t slots, int64_t tokens, const Array& seen) {
  const Array position = Positions(c, slots + tokens) - static_cast<double>(slots);
  return Double(c, 0) <= position.Unsqueeze(0) + seen.Unsqueeze(-1);
}

Array RingWritten(Composer& c, const Array& ring, const Array& x, const Array& seen) {
  if (!ring.defined() || !x.defined()) return {};
  const int64_t slots = ring.dim(1);
  return Reordered(c, Concat(ring, x, 1), seen, slots, [&](const Array& tokens) {
    const Array slot = Positions(c, slots);
    const Array last = tokens + static_cast<double>(x.dim(1) - 1);
    // The newest position that belongs in the slot.
    const Array position = last - Mod(last - slot, Double(c, static_cast<double>(slots)));
    return Where(position < tokens, slot, position - tokens + static_cast<double>(slots));
  });
}

}  // namespace attnd
