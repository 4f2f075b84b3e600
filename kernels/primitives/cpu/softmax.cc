// Softmax over rows, with a mask and the logarithm of the sum.
#include <cmath>
#include <limits>

#include "kernels/primitives/cpu/primitives_cpu.h"
#include "kernels/primitives/cpu/strided.h"

namespace attnd::cpu {
namespace {

template <typename T>
void SoftmaxRow(const T* x, int64_t x_stride, const bool* mask, int64_t mask_stride, int64_t n,
                T* out, int64_t out_stride, T* lse) {
  const auto allowed = [&](int64_t i) { return mask == nullptr || mask[i * mask_stride]; };
  T most = -std::numeric_limits<T>::infinity();
  for (int64_t i = 0; i < n; ++i) {
    if (!allowed(i)) continue;
    const T value = x[i * x_stride];
    if (value > most || std::isnan(value)) most = value;
    if (std::isnan(most)) break;
  }
  // A row of -inf alone would make exp(-inf + inf): it has no weight anywhere.
  const bool empty = most == -std::numeric_limits<T>::infinity();
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const T weight = !empty && allowed(i) ? std::exp(x[i * x_stride] - most) : T(0);
    out[i * out_stride] = weight;
    sum += weight;
  }
  const T inverse = empty ? T(0) : static_cast<T>(1 / sum);
  for (int64_t i = 0; i < n; ++i) out[i * out_stride] *= inverse;
  if (lse != nullptr) *lse = empty ? most : static_cast<T>(most + std::log(sum));
}

}  // namespace

void Softmax(const Tensor& x, const Tensor& mask, const Tensor& out, const Tensor& lse) {
  const int64_t n = out.dim(-1);
  WithComputeType("Softmax", out, [&](auto t) {
    using T = decltype(t);
    // Heads of rows; a missing mask or lse walks along with strides that are never followed.
    Dims rows = out.shape();
    rows.back() = 1;
    if (n == 0) {
      if (lse.defined()) Fill(-std::numeric_limits<double>::infinity(), lse);
      return;
    }
    const Tensor x_wide = x.Expand(out.shape());
    const Tensor x_head = x_wide.Slice(-1, 0, 1);
    const Tensor out_head = out.Slice(-1, 0, 1);
    const Tensor mask_wide = mask.defined() ? mask.Expand(out.shape()) : out;
    const Tensor mask_head = mask_wide.Slice(-1, 0, 1);
    const Tensor lse_head = lse.defined() ? lse : out_head;
    StridedLoop<4>(rows, {&x_head, &mask_head, &out_head, &lse_head})
        .Run(20.0 * static_cast<double>(n), [&](const auto& at, const auto& strides,
                                                int64_t count) {
          for (int64_t i = 0; i < count; ++i) {
            SoftmaxRow<T>(
                reinterpret_cast<const T*>(at[0] + i * strides[0]), x_wide.stride(-1),
                mask.defined() ? reinterpret_cast<const bool*>(at[1] + i * strides[1]) : nullptr,
                mask_wide.stride(-1), n, reinterpret_cast<T*>(at[2] + i * strides[2]),
                out.stride(-1),
                lse.defined() ? reinterpret_cast<T*>(at[3] + i * strides[3]) : nullptr);
          }
        });
  });
}

}  // namespace attnd::cpu
