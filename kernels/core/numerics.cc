#include "kernels/core/numerics.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/time/clock.h"
#include "kernels/core/evaluate.h"
#include "kernels/primitives/cpu/primitives_cpu.h"

namespace attnd {
namespace {

std::vector<double> Widened(const Tensor& tensor) {
  std::vector<double> values(static_cast<size_t>(tensor.num_elements()));
  cpu::Copy(tensor, Tensor(values.data(), DType::kFloat64, tensor.shape()));
  return values;
}

// Position of a value among all values of its type, so that neighbours differ by one and ±0 agree.
int64_t Rank(double value, DType dtype) {
  switch (dtype) {
    case DType::kFloat16: {
      const uint16_t bits = ToHalf(static_cast<float>(value)).bits;
      return bits & 0x8000u ? -static_cast<int64_t>(bits & 0x7fffu) : bits;
    }
    case DType::kBFloat16: {
      const uint16_t bits = ToBFloat16(static_cast<float>(value)).bits;
      return bits & 0x8000u ? -static_cast<int64_t>(bits & 0x7fffu) : bits;
    }
    case DType::kFloat32: {
      const auto bits = std::bit_cast<uint32_t>(static_cast<float>(value));
      return bits & 0x80000000u ? -static_cast<int64_t>(bits & 0x7fffffffu) : bits;
    }
    default: {
      const auto bits = std::bit_cast<uint64_t>(value);
      const auto magnitude = static_cast<int64_t>(bits & 0x7fffffffffffffffu);
      return bits >> 63 ? -magnitude : magnitude;
    }
  }
}

Dims IndexOf(size_t flat, const Dims& shape) {
  Dims index(shape.size());
  auto rest = static_cast<int64_t>(flat);
  for (size_t axis = shape.size(); axis-- > 0;) {
    index[axis] = rest % shape[axis];
    rest /= shape[axis];
  }
  return index;
}

bool SameBits(const NamedTensors& a, const NamedTensors& b) {
  return std::all_of(a.begin(), a.end(), [&b](const auto& entry) {
    const Tensor* other = b.Find(entry.first);
    return other != nullptr && other->shape() == entry.second.shape() &&
           std::memcmp(other->raw(), entry.second.raw(),
                       static_cast<size_t>(entry.second.byte_size())) == 0;
  });
}

}  // namespace

ErrorReport CompareTensors(absl::string_view output, const Tensor& result,
                           const Tensor& reference) {
  ErrorReport report;
  report.output = std::string(output);
  const std::vector<double> x = Widened(result);
  const std::vector<double> y = Widened(reference);
  double squares = 0, reference_squares = 0, result_squares = 0, dot = 0;
  std::vector<uint64_t> ulps;
  ulps.reserve(x.size());
  size_t worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    if (std::isnan(x[i])) ++report.nan_count;
    if (std::isinf(x[i])) ++report.inf_count;
    if (!std::isfinite(x[i]) || !std::isfinite(y[i])) {
      const bool same = (std::isnan(x[i]) && std::isnan(y[i])) || x[i] == y[i];
      if (!same) ++report.nonfinite_mismatch;
      continue;
    }
    const double error = std::abs(x[i] - y[i]);
    if (error > report.max_abs) {
      report.max_abs = error;
      worst = i;
    }
    if (y[i] != 0) report.max_rel = std::max(report.max_rel, error / std::abs(y[i]));
    squares += error * error;
    reference_squares += y[i] * y[i];
    result_squares += x[i] * x[i];
    dot += x[i] * y[i];
    if (IsFloating(result.dtype())) {
      const int64_t a = Rank(x[i], result.dtype()), b = Rank(y[i], result.dtype());
      ulps.push_back(a > b ? static_cast<uint64_t>(a) - static_cast<uint64_t>(b)
                           : static_cast<uint64_t>(b) - static_cast<uint64_t>(a));
    }
  }
  const double norm = std::sqrt(reference_squares);
  report.relative = norm > 0 ? std::sqrt(squares) / norm : std::sqrt(squares);
  report.rmse = x.empty() ? 0 : std::sqrt(squares / static_cast<double>(x.size()));
  const double lengths = std::sqrt(result_squares) * norm;
  report.cosine = lengths > 0 ? dot / lengths : (result_squares == reference_squares ? 1 : 0);
  if (!x.empty()) report.worst_index = IndexOf(worst, result.shape());
  if (!ulps.empty()) {
    const auto percentile = [&ulps](double q) {
      const auto rank = static_cast<size_t>(q * static_cast<double>(ulps.size() - 1));
      std::nth_element(ulps.begin(), ulps.begin() + static_cast<ptrdiff_t>(rank), ulps.end());
      return ulps[rank];
    };
    report.ulp_p50 = percentile(0.5);
    report.ulp_p99 = percentile(0.99);
    report.ulp_max = percentile(1);
  }
  return report;
}

absl::StatusOr<NumericsReport> Compare(const Operator& op, Backend& backend, Backend& cpu,
                                       const CallRequest& request) {
  absl::StatusOr<Evaluation> first = Evaluate(op, backend, request);
  if (!first.ok()) return first.status();
  absl::StatusOr<Evaluation> second = Evaluate(op, backend, request);
  if (!second.ok()) return second.status();
  const absl::Time start = absl::Now();
  absl::StatusOr<Evaluation> reference = EvaluateReference(op, cpu, request);
  if (!reference.ok()) return reference.status();

  NumericsReport report;
  report.reference_seconds = absl::ToDoubleSeconds(absl::Now() - start);
  report.kernel = first->kernel;
  report.device = first->device;
  report.reference = "composed float64 on cpu";
  report.bitwise_repeatable = SameBits(first->outputs, second->outputs);
  report.compute_seconds = absl::ToDoubleSeconds(std::min(first->compute, second->compute));
  DType dtype = DType::kFloat32;
  for (const auto& [name, tensor] : request.inputs) {
    const Port* port = op.spec.FindInput(name);
    if (port != nullptr && port->type == PortType::kFloat) dtype = tensor.dtype();
  }
  report.tolerance = Tolerance(op.spec, dtype);
  report.within_tolerance = true;
  for (const auto& [name, tensor] : first->outputs) {
    report.outputs.push_back(CompareTensors(name, tensor, *reference->outputs.Find(name)));
    const ErrorReport& error = report.outputs.back();
    report.within_tolerance &= error.relative <= report.tolerance && error.nonfinite_mismatch == 0;
  }
  return report;
}

}  // namespace attnd
