#include "kernels/cores/softmax_composed.h"

#include <limits>

namespace attnd {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

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
    s = Where(parts.allowed, s, -kInfinity);
  }
  if (parts.sinks.defined()) {
    // A sink is one more key without a value.
    const Array sinks =
        parts.sinks.Reshape({1, heads, 1, 1}).Expand({shape[0], heads, shape[2], 1});
    s = Concat(s, sinks, -1);
  }
  Array lse;
  const Array weights = Softmax(s, {}, &lse).Slice(-1, 0, keys);
  return {WeighedValues(c, weights, parts.allowed, v).Transpose(1, 2),
          lse.Reshape({shape[0], heads, shape[2]}).Transpose(1, 2)};
}

Array WeighedValues(Composer& c, const Array& weights, const Array& allowed, const Array& v) {
  if (!allowed.defined() || c.AllFinite(v)) return MatMul(weights, v);
  // 0 times NaN would be NaN: such values are summed up apart, by who sees one of either sign; NaN
  // counts as both.
  const Array finite = Equal(0.0 * v, c.Scalar(0));
  const Array sees = Where(allowed, c.Scalar(1), 0.0).Expand(weights.tensor().shape());
  const auto seen = [&](const Array& harmless) {
    const Array kinds = Where(harmless, c.Scalar(0), 1.0).Expand(v.tensor().shape());
    return Where(c.Scalar(0) < MatMul(sees, kinds), c.Scalar(kInfinity), 0.0);
  };
  return MatMul(weights, Where(finite, v, 0.0)) + seen(finite || v < c.Scalar(0)) -
         seen(finite || c.Scalar(0) < v);
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
