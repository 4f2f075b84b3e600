#include "kernels/cores/lrpe.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/cores/rope.h"

namespace attnd {
namespace {

// Float64 whatever the compute type is.
Array Doubles(Composer& c, Dims shape, absl::Span<const double> values) {
  Array out = c.Empty(DType::kFloat64, shape);
  if (!out.defined()) return {};
  c.Fail(c.backend().Upload(HostTensor<double>(std::move(shape), values), out.tensor()));
  return out;
}

Array DoubleZeros(Composer& c, Dims shape) {
  Array out = c.Empty(DType::kFloat64, std::move(shape));
  if (out.defined()) c.backend().Fill(0, out.tensor());
  return out;
}

// [.., E] cut or filled with zeros to [.., n].
Array Fitted(Composer& c, const Array& angles, int64_t n) {
  if (!angles.defined() || angles.dim(-1) == n) return angles;
  if (angles.dim(-1) > n) return angles.Slice(angles.rank() - 1, 0, n);
  Dims rest = angles.tensor().shape();
  rest.back() = n - rest.back();
  return Concat(angles, DoubleZeros(c, std::move(rest)), -1);
}

}  // namespace

Array SharedLrpeTheta(Composer& c, const LrpeForm& form, double base) {
  const int64_t E = form.per_axis();
  // On a grid a row is as long as one axis' angles need.
  const int64_t row = form.kind == LrpeKind::kCosine ? E : 2 * E;
  const auto size = static_cast<double>(form.axes == 1 ? form.key_size : row);
  std::vector<double> theta(static_cast<size_t>(E));
  for (int64_t i = 0; i < E; ++i) theta[i] = std::pow(base, -2 * static_cast<double>(i) / size);
  return Doubles(c, {1, E}, theta);
}

Array LrpeThetaByHead(Composer& c, const LrpeForm& form, int64_t heads, double base) {
  const int64_t E = form.per_axis(), count = heads * E;
  std::vector<double> theta(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    theta[i] = std::pow(base, -2 * static_cast<double>(i) / static_cast<double>(count));
  }
  return Doubles(c, {heads, E}, theta);
}

Array LrpeAngles(Composer& c, const LrpeForm& form, const Array& theta, const Array& seen,
                 int64_t batch, int64_t tokens) {
  if (!c.status().ok()) return {};
  Array position = c.Cast(c.Iota(tokens), DType::kFloat64).Unsqueeze(0);
  position = seen.defined() ? position + c.Cast(seen, DType::kFloat64).Unsqueeze(1)
                            : position.Expand({batch, tokens});
  const Array rates = Fitted(c, c.Cast(theta, DType::kFloat64), form.angles());
  return position.Unsqueeze(-1).Unsqueeze(-1) * rates;
}

Array LrpeGridAngles(Composer& c, const LrpeForm& form, const Array& theta,
                     absl::Span<const int64_t> grid, int64_t prefix) {
  if (!c.status().ok()) return {};
  const Array rates = c.Cast(theta, DType::kFloat64);
  const int64_t heads = rates.dim(0), E = rates.dim(1);
  int64_t tokens = 1;
  for (const int64_t size : grid) tokens *= size;
  Array angles;
  int64_t slower = 1;
  for (const int64_t size : grid) {
    const int64_t faster = tokens / slower / size;
    const Array place = c.Cast(c.Iota(size), DType::kFloat64).Reshape({1, size, 1, 1, 1});
    const Array axis =
        (place * rates).Expand({slower, size, faster, heads, E}).Reshape({tokens, heads, E});
    angles = angles.defined() ? Concat(angles, axis, -1) : axis;
    slower *= size;
  }
  angles = Fitted(c, angles, form.angles());
  if (prefix == 0) return angles;
  return Concat(DoubleZeros(c, {prefix, heads, form.angles()}), angles, 0);
}

Array EncodeLrpe(const LrpeForm& form, const Array& x, const Array& angles) {
  if (form.kind == LrpeKind::kRotate) return Rotate(x, RopePairs::kHalf, angles);
  if (!x.defined() || !angles.defined()) return {};
  Composer& c = *x.composer();
  const Array cos = c.Cast(Apply(UnaryOp::kCos, angles), x.tensor().dtype());
  const Array sin = c.Cast(Apply(UnaryOp::kSin, angles), x.tensor().dtype());
  return Concat(x * cos, x * sin, -1);
}

}  // namespace attnd
