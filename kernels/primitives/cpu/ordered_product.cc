#include "kernels/primitives/cpu/ordered_product.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"

// The file is compiled once for each instruction set; the first pass defines the dispatch.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/primitives/cpu/ordered_product.cc"
// The order is the mechanism:
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

#ifndef ATTND_ORDERED_PRODUCT_ONCE
#define ATTND_ORDERED_PRODUCT_ONCE
namespace attnd::cpu {
// Columns of a panel, the width in which products are computed.
inline constexpr int64_t kPanel = 32;
}  // namespace attnd::cpu
#endif

HWY_BEFORE_NAMESPACE();
namespace attnd::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using F = hn::CappedTag<float, 16>;
using V = hn::Vec<F>;

constexpr int64_t kLanes = hn::MaxLanes(F());
constexpr int kVectors = static_cast<int>(kPanel / kLanes);

HWY_INLINE V LoadWeights(const float* b) { return hn::LoadU(F(), b); }

HWY_INLINE V LoadWeights(const BFloat16* b) {
  const hn::Rebind<uint16_t, F> d16;
  const hn::RebindToUnsigned<F> d32;
  const auto bits = hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(b)));
  return hn::BitCast(F(), hn::ShiftLeft<16>(bits));
}

// kRows rows of a times one panel of b. Twelve accumulators for three rows of AVX2: the chains of
// one row alone would each wait for their last addition.
template <int kRows, typename Weight>
HWY_INLINE void Panel(int64_t k, const float* a, int64_t lda, const Weight* b, int64_t ldb,
                      float* c, int64_t ldc, bool accumulate) {
  const F d;
  V sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kVectors; ++j) {
      sums[r][j] = accumulate ? hn::LoadU(d, c + r * ldc + j * kLanes) : hn::Zero(d);
    }
  }
  for (int64_t i = 0; i < k; ++i, b += ldb) {
    V weights[kVectors];
    for (int j = 0; j < kVectors; ++j) weights[j] = LoadWeights(b + j * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const V factor = hn::Set(d, a[r * lda + i]);
      for (int j = 0; j < kVectors; ++j) {
        sums[r][j] = hn::MulAdd(factor, weights[j], sums[r][j]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kVectors; ++j) hn::StoreU(sums[r][j], d, c + r * ldc + j * kLanes);
  }
}

// Rows of a times one whole panel.
template <typename Weight>
HWY_INLINE void PanelRows(int64_t m, int64_t k, const float* a, int64_t lda, const Weight* b,
                          int64_t ldb, float* c, int64_t ldc, bool accumulate) {
  constexpr int kMost = kVectors == 2 ? 6 : 3;
  int64_t i = 0;
  for (; i + kMost <= m; i += kMost) {
    Panel<kMost>(k, a + i * lda, lda, b, ldb, c + i * ldc, ldc, accumulate);
  }
  for (; i < m; ++i) Panel<1>(k, a + i * lda, lda, b, ldb, c + i * ldc, ldc, accumulate);
}

// Columns beyond the last whole panel: the same chains, `count` lanes at a time.
HWY_INLINE void Tail(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b,
                     int64_t ldb, float* c, int64_t ldc, bool accumulate) {
  const F d;
  for (int64_t j = 0; j < n; j += kLanes) {
    const auto mask = hn::FirstN(d, static_cast<size_t>(std::min<int64_t>(kLanes, n - j)));
    for (int64_t r = 0; r < m; ++r) {
      float* out = c + r * ldc + j;
      V sum = accumulate ? hn::MaskedLoad(mask, d, out) : hn::Zero(d);
      for (int64_t i = 0; i < k; ++i) {
        sum = hn::MulAdd(hn::Set(d, a[r * lda + i]), hn::MaskedLoad(mask, d, b + i * ldb + j), sum);
      }
      hn::BlendedStore(sum, mask, d, out);
    }
  }
}

void Product(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b,
             int64_t ldb, float* c, int64_t ldc, bool accumulate) {
  int64_t j = 0;
  for (; j + kPanel <= n; j += kPanel) {
    PanelRows(m, k, a, lda, b + j, ldb, c + j, ldc, accumulate);
  }
  Tail(m, n - j, k, a, lda, b + j, ldb, c + j, ldc, accumulate);
}

// One panel of a packed matrix, `columns` of it wanted.
template <typename Weight>
HWY_INLINE void Packed(int64_t rows, int64_t inputs, const float* x, const Weight* panel,
                       int64_t columns, float* y, int64_t ldy) {
  if (columns == kPanel) return PanelRows(rows, inputs, x, inputs, panel, kPanel, y, ldy, false);
  HWY_ALIGN float whole[kPanel];
  for (int64_t r = 0; r < rows; ++r) {
    Panel<1>(inputs, x + r * inputs, inputs, panel, kPanel, whole, kPanel, false);
    std::copy_n(whole, columns, y + r * ldy);
  }
}

void PackedFloat(int64_t rows, int64_t inputs, const float* x, const float* panel, int64_t columns,
                 float* y, int64_t ldy) {
  Packed(rows, inputs, x, panel, columns, y, ldy);
}

void PackedBFloat16(int64_t rows, int64_t inputs, const float* x, const BFloat16* panel,
                    int64_t columns, float* y, int64_t ldy) {
  Packed(rows, inputs, x, panel, columns, y, ldy);
}

}  // namespace attnd::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnd::cpu {

HWY_EXPORT(Product);
HWY_EXPORT(PackedFloat);
HWY_EXPORT(PackedBFloat16);

void OrderedProduct(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b,
                    int64_t ldb, float* c, int64_t ldc, bool accumulate) {
  HWY_DYNAMIC_DISPATCH(Product)(m, n, k, a, lda, b, ldb, c, ldc, accumulate);
}

namespace {

template <typename T>
void FillPanels(const T* rows, int64_t n_rows, int64_t inputs, int64_t first, T* panels) {
  for (int64_t r = 0; r < n_rows; ++r) {
    const int64_t o = first + r;
    T* column = panels + o / kPanel * inputs * kPanel + o % kPanel;
    for (int64_t i = 0; i < inputs; ++i) column[i * kPanel] = rows[r * inputs + i];
  }
}

}  // namespace

absl::StatusOr<PackedMatrix> PackedMatrix::Pack(absl::Span<const Tensor> weights) {
  PackedMatrix packed;
  bool half = true;
  for (const Tensor& weight : weights) {
    const DType dtype = weight.dtype();
    const bool known =
        dtype == DType::kFloat32 || dtype == DType::kFloat16 || dtype == DType::kBFloat16;
    if (!known || weight.rank() != 2 || !weight.is_contiguous() ||
        weight.dim(1) != weights[0].dim(1)) {
      return absl::InvalidArgumentError(
          absl::StrCat("weight: given ", weight.DebugString(),
                       ", expected matrices of one width, of float32, float16 or bfloat16"));
    }
    packed.outputs_ += weight.dim(0);
    packed.inputs_ = weight.dim(1);
    half = half && dtype == DType::kBFloat16;
  }
  const int64_t panels = (packed.outputs_ + kPanel - 1) / kPanel;
  absl::StatusOr<Tensor> memory =
      AllocateHost(half ? DType::kBFloat16 : DType::kFloat32, {panels, packed.inputs_, kPanel});
  if (!memory.ok()) return memory.status();
  packed.panels_ = *std::move(memory);
  std::memset(packed.panels_.raw(), 0, static_cast<size_t>(packed.panels_.byte_size()));
  int64_t first = 0;
  for (const Tensor& weight : weights) {
    if (half) {
      FillPanels(weight.data<BFloat16>(), weight.dim(0), packed.inputs_, first,
                 packed.panels_.data<BFloat16>());
    } else {
      absl::StatusOr<Tensor> wide = AllocateHost(DType::kFloat32, weight.shape());
      if (!wide.ok()) return wide.status();
      LoadRow(weight.raw(), weight.dtype(), wide->data<float>(), weight.num_elements());
      FillPanels(wide->data<float>(), weight.dim(0), packed.inputs_, first,
                 packed.panels_.data<float>());
    }
    first += weight.dim(0);
  }
  return packed;
}

absl::StatusOr<Tensor> PackedMatrix::Unpack() const {
  absl::StatusOr<Tensor> out = AllocateHost(panels_.dtype(), {outputs_, inputs_});
  if (!out.ok()) return out;
  const size_t size = SizeOf(panels_.dtype());
  for (int64_t o = 0; o < outputs_; ++o) {
    for (int64_t i = 0; i < inputs_; ++i) {
      const int64_t from = (o / kPanel * inputs_ + i) * kPanel + o % kPanel;
      std::memcpy(out->data<char>() + static_cast<size_t>(o * inputs_ + i) * size,
                  panels_.data<char>() + static_cast<size_t>(from) * size, size);
    }
  }
  return out;
}

void PackedMatrix::Multiply(const float* x, int64_t rows, float* y, int64_t stride) const {
  if (rows == 0 || outputs_ == 0) return;
  const int64_t panels = panels_.dim(0);
  const int64_t size = inputs_ * kPanel;
  const double work = 2.0 * static_cast<double>(rows) * static_cast<double>(inputs_) *
                      static_cast<double>(outputs_);
  // A task is a run of panels long enough to be worth handing over.
  const int64_t run = std::max<int64_t>(1, panels / 16);
  ParallelFor((panels + run - 1) / run, work, [&](int64_t task) {
    for (int64_t p = task * run; p < std::min(panels, (task + 1) * run); ++p) {
      const int64_t columns = std::min(kPanel, outputs_ - p * kPanel);
      float* out = y + p * kPanel;
      if (panels_.dtype() == DType::kBFloat16) {
        HWY_DYNAMIC_DISPATCH(PackedBFloat16)
        (rows, inputs_, x, panels_.data<BFloat16>() + p * size, columns, out, stride);
      } else {
        HWY_DYNAMIC_DISPATCH(PackedFloat)
        (rows, inputs_, x, panels_.data<float>() + p * size, columns, out, stride);
      }
    }
  });
}

}  // namespace attnd::cpu
#endif  // HWY_ONCE
