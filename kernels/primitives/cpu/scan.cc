// LinearScan, LogSumExpScan.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/primitives/cpu/primitives_cpu.h"
#include "kernels/primitives/cpu/strided.h"

namespace attnd::cpu {
namespace {

// Channels that one task walks side by side: a cache line's worth or more, so that the inner loop
// is a vector's.
constexpr int64_t kChannels = 256;

// step(row of the middle axis, channel, value before) -> value, along the middle axis of out.
template <typename T, typename Step>
void Walk(const Tensor& initial, const Tensor& out, T fresh, Step step) {
  const int64_t rows = out.dim(0), length = out.dim(1), width = out.dim(2);
  const int64_t blocks = (width + kChannels - 1) / kChannels;
  ParallelFor(rows * blocks, 4.0 * static_cast<double>(out.num_elements()), [&](int64_t task) {
    const int64_t n = task / blocks, first = task % blocks * kChannels;
    const int64_t count = std::min(kChannels, width - first);
    Scratch scratch;
    T* carry = scratch.Take<T>(count);
    for (int64_t c = 0; c < count; ++c) {
      carry[c] = initial.defined()
                     ? initial.data<T>()[n * initial.stride(0) + (first + c) * initial.stride(1)]
                     : fresh;
    }
    for (int64_t t = 0; t < length; ++t) {
      T* y = out.data<T>() + n * out.stride(0) + t * out.stride(1);
      for (int64_t c = 0; c < count; ++c) {
        carry[c] = step(n, t, first + c, carry[c]);
        y[(first + c) * out.stride(2)] = carry[c];
      }
    }
  });
}

template <typename T>
T At(const Tensor& x, int64_t n, int64_t t, int64_t c) {
  return x.data<T>()[n * x.stride(0) + t * x.stride(1) + c * x.stride(2)];
}

// ln(e^a + e^b): -inf is the ln of nothing.
template <typename T>
T LogAddExp(T a, T b) {
  const T most = std::max(a, b);
  if (std::isnan(a) || std::isnan(b)) return a + b;
  if (std::isinf(most)) return most;
  return most + std::log1p(std::exp(std::min(a, b) - most));
}

}  // namespace

void LinearScan(const Tensor& factor, const Tensor& x, const Tensor& initial, const Tensor& out) {
  const Tensor a = factor.Expand(out.shape()), u = x.Expand(out.shape());
  WithComputeType("LinearScan", out, [&](auto t) {
    using T = decltype(t);
    Walk<T>(initial, out, T(0), [&](int64_t n, int64_t i, int64_t c, T before) {
      return At<T>(a, n, i, c) * before + At<T>(u, n, i, c);
    });
  });
}

void LogSumExpScan(const Tensor& x, const Tensor& initial, const Tensor& out) {
  const Tensor u = x.Expand(out.shape());
  WithComputeType("LogSumExpScan", out, [&](auto t) {
    using T = decltype(t);
    Walk<T>(initial, out, -std::numeric_limits<T>::infinity(),
            [&](int64_t n, int64_t i, int64_t c, T before) {
              return LogAddExp(before, At<T>(u, n, i, c));
            });
  });
}

}  // namespace attnd::cpu
