#include "kernels/cores/softmax_composed.h"

#include <limits>

namespace attnd {

SoftmaxResult ComposeSoftmax(Composer& c, const SoftmaxParts& parts) {
  if (!c.status().ok()) return {};
  const int64_t heads = parts.q.dim(2);
  const auto in_heads = [heads](const Array& x) { return x.RepeatTo(2, heads).Transpose(1, 2); };
  const Array q = in_heads(parts.q), k = in_heads(parts.k), v = in_heads(parts.v);
  Array s = MatMul(q, k.T()) * parts.scale;
  if (parts.softcap > 0) s = Apply(UnaryOp::kTanh, s / parts.softcap) * parts.softcap;
  const int64_t keys = k.dim(2);
  const Dims shape = {q.dim(0), heads, q.dim(2), keys};
  if (parts.allowed.defined()) {
    // A forbidden pair has no weight whatever its score is.
    s = Where(parts.allowed, s, -std::numeric_limits<double>::infinity());
  }
  if (parts.sinks.defined()) {
    // A sink is one more key without a value.
    const Array sinks =
        parts.sinks.Reshape({1, heads, 1, 1}).Expand({shape[0], heads, shape[2], 1});
    s = Concat(s, sinks, -1);
  }
  Array lse;
  const Array weights = Softmax(s, {}, &lse).Slice(-1, 0, keys);
  return {MatMul(weights, v).Transpose(1, 2),
          lse.Reshape({shape[0], heads, shape[2]}).Transpose(1, 2)};
}

Array WindowPairs(Composer& c, int64_t queries, int64_t keys, bool causal, int64_t left,
                  int64_t right) {
  const Array key = c.Iota(keys).Unsqueeze(0);
  const Array query = c.Iota(queries, static_cast<double>(keys - queries)).Unsqueeze(1);
  const Array distance = query - key;
  Array allowed = Equal(distance, distance);
  if (causal) allowed = allowed && !(distance < c.Scalar(0));
  if (left >= 0) allowed = allowed && distance <= c.Scalar(static_cast<double>(left));
  if (right >= 0 && !causal) {
    allowed = allowed && c.Scalar(-static_cast<double>(right)) <= distance;
  }
  return allowed;
}

}  // namespace attnd
