#include "kernels/cores/rope.h"

#include <algorithm>
#include <cmath>

namespace attnd {
namespace {

// A float64 array whatever the compute type is.
Array Doubles(Composer& c, absl::Span<const double> values) {
  const Dims shape = {static_cast<int64_t>(values.size())};
  Array out = c.Empty(DType::kFloat64, shape);
  if (!out.defined()) return out;
  c.Fail(c.backend().Upload(HostTensor<double>(shape, values), out.tensor()));
  return out;
}

}  // namespace

std::vector<double> RopeFrequencies(RopePairs pairs, int64_t key_size, double base) {
  const int64_t n = key_size / 2;
  const double steps = pairs == RopePairs::kHalf ? n : std::max<int64_t>(1, n - 1);
  std::vector<double> frequencies(n);
  for (int64_t p = 0; p < n; ++p) frequencies[p] = std::pow(base, -static_cast<double>(p) / steps);
  return frequencies;
}

Array RopeAngles(const Array& positions, absl::Span<const double> frequencies) {
  if (!positions.defined()) return {};
  Composer& c = *positions.composer();
  return c.Cast(positions, DType::kFloat64).Unsqueeze(-1) * Doubles(c, frequencies);
}

Array AxialRopeAngles(Composer& c, int64_t height, int64_t width,
                      absl::Span<const double> frequencies) {
  const auto count = static_cast<int64_t>(frequencies.size());
  const Array rows = RopeAngles(c.Iota(height), frequencies).Unsqueeze(1);
  const Array columns = RopeAngles(c.Iota(width), frequencies).Unsqueeze(0);
  const Dims grid = {height, width, count};
  return Concat(rows.Expand(grid), columns.Expand(grid), -1).Reshape({height * width, 2 * count});
}

Array AxialRopeAngles(Composer& c, int64_t height, int64_t width, int64_t key_size, double base) {
  return AxialRopeAngles(c, height, width,
                         RopeFrequencies(RopePairs::kInterleaved, key_size / 2, base));
}

Array Rotate(const Array& x, RopePairs pairs, const Array& angles) {
  if (!x.defined() || !angles.defined()) return {};
  Composer& c = *x.composer();
  const Array cos = c.Cast(Apply(UnaryOp::kCos, angles), x.tensor().dtype());
  const Array sin = c.Cast(Apply(UnaryOp::kSin, angles), x.tensor().dtype());
  const int64_t half = x.dim(-1) / 2;
  // The two members of the pairs, as an axis of their own.
  Dims split(x.tensor().shape().begin(), x.tensor().shape().end() - 1);
  const bool interleaved = pairs == RopePairs::kInterleaved;
  split.push_back(interleaved ? half : 2);
  split.push_back(interleaved ? 2 : half);
  const int member = interleaved ? -1 : -2;
  const Array in = x.Reshape(split);
  const Array out = c.Empty(x.tensor().dtype(), split);
  const Array a = in.Select(member, 0), b = in.Select(member, 1);
  out.Select(member, 0).Assign(a * cos - b * sin);
  out.Select(member, 1).Assign(b * cos + a * sin);
  return out.Reshape(x.tensor().shape());
}

Array RotatedHalves(const Array& x) {
  if (!x.defined()) return {};
  const int64_t half = x.dim(-1) / 2;
  return Concat(-x.Slice(-1, half, half), x.Slice(-1, 0, half), -1);
}

namespace cpu {

void RopeRow(absl::Span<const double> frequencies, double position, float* cos, float* sin) {
  for (size_t i = 0; i < frequencies.size(); ++i) {
    cos[i] = static_cast<float>(std::cos(position * frequencies[i]));
    sin[i] = static_cast<float>(std::sin(position * frequencies[i]));
  }
}

void RotateRow(RopePairs pairs, const float* cos, const float* sin, int64_t key_size, float* row) {
  const int64_t half = key_size / 2;
  const bool interleaved = pairs == RopePairs::kInterleaved;
  const int64_t step = interleaved ? 2 : 1;
  const int64_t other = interleaved ? 1 : half;
  for (int64_t p = 0; p < half; ++p) {
    float& a = row[p * step];
    float& b = row[p * step + other];
    const float turned = a * cos[p] - b * sin[p];
    b = b * cos[p] + a * sin[p];
    a = turned;
  }
}

}  // namespace cpu
}  // namespace attnd
