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
#include "hwy/cache_control.h"
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
// Vectors of a panel.
constexpr int kVectors = static_cast<int>(kPanel / kLanes);
// Rows of a block that is one panel wide: as many sums as registers hold beside what they are made
// from.
constexpr int kMostRows = kVectors == 2 ? 12 : 3;

// A row of a panel.
HWY_INLINE void LoadPanel(const float* b, V* weights) {
  for (int j = 0; j < kVectors; ++j) weights[j] = hn::LoadU(F(), b + j * kLanes);
}

// In pairs, see Place: a column of the first half is a word's low bits.
HWY_INLINE void LoadPanel(const BFloat16* b, V* weights) {
  const hn::RebindToUnsigned<F> d;
  for (int j = 0; j < kVectors / 2; ++j) {
    const auto pairs = hn::LoadU(d, reinterpret_cast<const uint32_t*>(b) + j * kLanes);
    weights[j] = hn::BitCast(F(), hn::ShiftLeft<16>(pairs));
    weights[kVectors / 2 + j] = hn::BitCast(F(), hn::And(pairs, hn::Set(d, 0xffff0000u)));
  }
}

// kRows rows of a times kPanels panels of b, `panel_stride` apart. Every sum is a chain that waits
// for its last addition: it takes eight of them to keep the units busy, of few rows' or of many
// columns'.
template <int kRows, int kPanels, bool kAhead, typename Weight>
HWY_INLINE void Block(int64_t k, const float* a, int64_t lda, const Weight* b, int64_t ldb,
                      int64_t panel_stride, float* c, int64_t ldc, bool accumulate) {
  const F d;
  constexpr int kAcross = kPanels * kVectors;
  V sums[kRows][kAcross];
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kAcross; ++j) {
      sums[r][j] = accumulate ? hn::LoadU(d, c + r * ldc + j * kLanes) : hn::Zero(d);
    }
  }
  for (int64_t i = 0; i < k; ++i, b += ldb) {
    V weights[kAcross];
    for (int p = 0; p < kPanels; ++p) {
      LoadPanel(b + p * panel_stride, weights + p * kVectors);
      // Of a packed matrix the panels that come next: it streams through the caches.
      if constexpr (kAhead) hwy::Prefetch(b + (p + kPanels) * panel_stride);
    }
    for (int r = 0; r < kRows; ++r) {
      const V factor = hn::Set(d, a[r * lda + i]);
      for (int j = 0; j < kAcross; ++j) {
        sums[r][j] = hn::MulAdd(factor, weights[j], sums[r][j]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int j = 0; j < kAcross; ++j) hn::StoreU(sums[r][j], d, c + r * ldc + j * kLanes);
  }
}

// `rows` rows, at most kRows, times kPanels panels.
template <int kRows, int kPanels, bool kAhead, typename Weight>
HWY_INLINE void BlockOf(int64_t rows, int64_t k, const float* a, int64_t lda, const Weight* b,
                        int64_t ldb, int64_t panel_stride, float* c, int64_t ldc, bool accumulate) {
  if constexpr (kRows > 1) {
    if (rows < kRows) {
      return BlockOf<kRows - 1, kPanels, kAhead>(rows, k, a, lda, b, ldb, panel_stride, c, ldc,
                                                 accumulate);
    }
  }
  Block<kRows, kPanels, kAhead>(k, a, lda, b, ldb, panel_stride, c, ldc, accumulate);
}

// Rows of a times `panels` whole panels.
template <bool kAhead, typename Weight>
HWY_INLINE void Panels(int64_t m, int64_t panels, int64_t k, const float* a, int64_t lda,
                       const Weight* b, int64_t ldb, int64_t panel_stride, float* c, int64_t ldc,
                       bool accumulate) {
  // Panels that one row takes at a time, and up to three rows.
  constexpr int kWide = kVectors == 2 ? 4 : 2, kNarrow = kVectors == 2 ? 2 : 1;
  int64_t p = 0;
  for (; m == 1 && p + kWide <= panels; p += kWide) {
    Block<1, kWide, kAhead>(k, a, lda, b + p * panel_stride, ldb, panel_stride, c + p * kPanel, ldc,
                            accumulate);
  }
  for (; m <= 3 && p + kNarrow <= panels; p += kNarrow) {
    BlockOf<3, kNarrow, kAhead>(m, k, a, lda, b + p * panel_stride, ldb, panel_stride,
                                c + p * kPanel, ldc, accumulate);
  }
  for (; p < panels; ++p) {
    for (int64_t i = 0; i < m; i += kMostRows) {
      BlockOf<kMostRows, 1, kAhead>(std::min<int64_t>(kMostRows, m - i), k, a + i * lda, lda,
                                    b + p * panel_stride, ldb, panel_stride,
                                    c + p * kPanel + i * ldc, ldc, accumulate);
    }
  }
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
  const int64_t whole = n / kPanel * kPanel;
  Panels<false>(m, n / kPanel, k, a, lda, b, ldb, kPanel, c, ldc, accumulate);
  Tail(m, n - whole, k, a, lda, b + whole, ldb, c + whole, ldc, accumulate);
}

// The last panel of a packed matrix, `columns` of it wanted.
template <typename Weight>
HWY_INLINE void CutPanel(int64_t rows, int64_t inputs, const float* x, const Weight* panel,
                         int64_t columns, float* y, int64_t ldy) {
  HWY_ALIGN float whole[kMostRows * kPanel];
  for (int64_t r = 0; r < rows; r += kMostRows) {
    const int64_t count = std::min<int64_t>(kMostRows, rows - r);
    Panels<false>(count, 1, inputs, x + r * inputs, inputs, panel, kPanel, 0, whole, kPanel, false);
    for (int64_t i = 0; i < count; ++i) {
      std::copy_n(whole + i * kPanel, columns, y + (r + i) * ldy);
    }
  }
}

// Panels of a packed matrix, side by side; `columns` of them wanted.
template <typename Weight>
HWY_INLINE void Packed(int64_t rows, int64_t inputs, const float* x, const Weight* panels,
                       int64_t columns, float* y, int64_t ldy) {
  const int64_t size = inputs * kPanel, whole = columns / kPanel;
  Panels<true>(rows, whole, inputs, x, inputs, panels, kPanel, size, y, ldy, false);
  if (columns == whole * kPanel) return;
  CutPanel(rows, inputs, x, panels + whole * size, columns - whole * kPanel, y + whole * kPanel,
           ldy);
}

void PackedFloat(int64_t rows, int64_t inputs, const float* x, const float* panels, int64_t columns,
                 float* y, int64_t ldy) {
  Packed(rows, inputs, x, panels, columns, y, ldy);
}

void PackedBFloat16(int64_t rows, int64_t inputs, const float* x, const BFloat16* panels,
                    int64_t columns, float* y, int64_t ldy) {
  Packed(rows, inputs, x, panels, columns, y, ldy);
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

// Where a panel's column stands in a row of the panel. Of bfloat16, columns of the first and of the
// second half alternate: a shift and a mask widen a vector of pairs.
int64_t Place(int64_t column, const float*) { return column; }
int64_t Place(int64_t column, const BFloat16*) {
  return column % (kPanel / 2) * 2 + column / (kPanel / 2);
}

template <typename T>
void FillPanels(const T* rows, int64_t n_rows, int64_t inputs, int64_t first, T* panels) {
  for (int64_t r = 0; r < n_rows; ++r) {
    const int64_t o = first + r;
    T* column = panels + o / kPanel * inputs * kPanel + Place(o % kPanel, rows);
    for (int64_t i = 0; i < inputs; ++i) column[i * kPanel] = rows[r * inputs + i];
  }
}

template <typename T>
void DrainPanels(const T* panels, int64_t n_rows, int64_t inputs, T* rows) {
  for (int64_t o = 0; o < n_rows; ++o) {
    const T* column = panels + o / kPanel * inputs * kPanel + Place(o % kPanel, rows);
    for (int64_t i = 0; i < inputs; ++i) rows[o * inputs + i] = column[i * kPanel];
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
  if (panels_.dtype() == DType::kBFloat16) {
    DrainPanels(panels_.data<BFloat16>(), outputs_, inputs_, out->data<BFloat16>());
  } else {
    DrainPanels(panels_.data<float>(), outputs_, inputs_, out->data<float>());
  }
  return out;
}

void PackedMatrix::Multiply(const float* x, int64_t rows, float* y, int64_t stride) const {
  if (rows == 0 || outputs_ == 0) return;
  const int64_t panels = panels_.dim(0);
  const int64_t size = inputs_ * kPanel;
  const double work = 2.0 * static_cast<double>(rows) * static_cast<double>(inputs_) *
                      static_cast<double>(outputs_);
  // A task is a run of panels long enough to be worth handing over; of one row, of several at a
  // time.
  const int64_t run = std::max<int64_t>(rows == 1 ? 4 : 1, panels / 16);
  ParallelFor((panels + run - 1) / run, work, [&](int64_t task) {
    const int64_t first = task * run;
    const int64_t columns = std::min(run * kPanel, outputs_ - first * kPanel);
    float* out = y + first * kPanel;
    if (panels_.dtype() == DType::kBFloat16) {
      HWY_DYNAMIC_DISPATCH(PackedBFloat16)
      (rows, inputs_, x, panels_.data<BFloat16>() + first * size, columns, out, stride);
    } else {
      HWY_DYNAMIC_DISPATCH(PackedFloat)
      (rows, inputs_, x, panels_.data<float>() + first * size, columns, out, stride);
    }
  });
}

}  // namespace attnd::cpu
#endif  // HWY_ONCE
