#include "kernels/primitives/cpu/vector_math.h"

#include <cmath>
#include <cstring>
#include <limits>

// The file is compiled once for each instruction set; the first pass defines the dispatch.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/primitives/cpu/vector_math.cc"
// The order is the mechanism:
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "hwy/contrib/math/math-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace attnd::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using F = hn::ScalableTag<float>;
using V = hn::Vec<F>;

// Whole vectors first, then the rest through zero-padded loads of the same width, so that an
// element is computed by the same instructions wherever it stands.
template <typename Body>
HWY_INLINE void ForRow(int64_t n, Body body) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(F()));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) body(i, lanes);
  if (i < n) body(i, n - i);
}

HWY_INLINE V Load(const float* x, int64_t count) {
  const F d;
  if (count == static_cast<int64_t>(hn::Lanes(d))) return hn::LoadU(d, x);
  HWY_ALIGN float padded[hn::MaxLanes(d)] = {};
  std::memcpy(padded, x, static_cast<size_t>(count) * sizeof(float));
  return hn::Load(d, padded);
}

HWY_INLINE void Store(V v, float* out, int64_t count) {
  const F d;
  if (count == static_cast<int64_t>(hn::Lanes(d))) return hn::StoreU(v, d, out);
  HWY_ALIGN float padded[hn::MaxLanes(d)];
  hn::Store(v, d, padded);
  std::memcpy(out, padded, static_cast<size_t>(count) * sizeof(float));
}

// e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln 2 / 2. Adding `magic` rounds to an integer and
// leaves n in the low bits of the sum, from where it is added to the exponent of e^r. The
// polynomial is the minimax fit of (e^r - 1 - r) / r^2, relative error of e^r 3e-9; float32's own
// roundings remain. Twice as fast as the library's function, which also covers subnormal results.
HWY_INLINE V SafeExp(V x) {
  const F d;
  const hn::RebindToSigned<F> di;
  const V magic = hn::Set(d, 12582912.0f);  // 1.5 * 2^23
  const V shifted = hn::MulAdd(x, hn::Set(d, 1.44269504f), magic);
  const V n = hn::Sub(shifted, magic);
  // ln 2 in two parts: n times the first is exact.
  const V r =
      hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), hn::NegMulAdd(n, hn::Set(d, 0.693359375f), x));
  V q = hn::MulAdd(hn::Set(d, 0.0013814599f), r, hn::Set(d, 0.008368717f));
  q = hn::MulAdd(q, r, hn::Set(d, 0.04166839f));
  q = hn::MulAdd(q, r, hn::Set(d, 0.16666521f));
  q = hn::MulAdd(q, r, hn::Set(d, 0.49999994f));
  const V p = hn::Add(hn::MulAdd(hn::Mul(r, r), q, r), hn::Set(d, 1.0f));
  const V scaled =
      hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::BitCast(di, shifted))));
  // Outside of [ln 2^-126, ln 2^128) the exponent has wrapped, and NaN has lost its bits.
  const V large = hn::IfThenElse(hn::Gt(x, hn::Set(d, 88.72283f)),
                                 hn::Set(d, std::numeric_limits<float>::infinity()), scaled);
  const V small = hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -87.33654f)), large);
  return hn::IfThenElse(hn::IsNaN(x), x, small);
}

// Lanes beyond `count` set to `fill`, for reductions.
HWY_INLINE V Masked(V v, int64_t count, float fill) {
  const F d;
  return hn::IfThenElse(hn::FirstN(d, static_cast<size_t>(count)), v, hn::Set(d, fill));
}

void LoadHalf(const Half* x, float* out, int64_t n) {
#if HWY_TARGET <= HWY_AVX2
  const F d;
  const hn::Rebind<hwy::float16_t, F> d16;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(x + i))), d,
               out + i);
  }
  for (; i < n; ++i) out[i] = ToFloat(x[i]);
#else
  for (int64_t i = 0; i < n; ++i) out[i] = ToFloat(x[i]);
#endif
}

void StoreHalf(const float* x, Half* out, int64_t n) {
#if HWY_TARGET <= HWY_AVX2
  const F d;
  const hn::Rebind<hwy::float16_t, F> d16;
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    hn::StoreU(hn::DemoteTo(d16, hn::LoadU(d, x + i)), d16,
               reinterpret_cast<hwy::float16_t*>(out + i));
  }
  for (; i < n; ++i) out[i] = ToHalf(x[i]);
#else
  for (int64_t i = 0; i < n; ++i) out[i] = ToHalf(x[i]);
#endif
}

void LoadBFloat16(const BFloat16* x, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = ToFloat(x[i]);
}

void StoreBFloat16(const float* x, BFloat16* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = ToBFloat16(x[i]);
}

void Exp(float* x, int64_t n) {
  ForRow(n, [x](int64_t i, int64_t count) { Store(SafeExp(Load(x + i, count)), x + i, count); });
}

// e^-|x| never overflows.
HWY_INLINE V SigmoidOf(V x) {
  const F d;
  const V one = hn::Set(d, 1.0f);
  const V e = SafeExp(hn::Neg(hn::Abs(x)));
  return hn::Div(hn::IfThenElse(hn::Lt(x, hn::Zero(d)), e, one), hn::Add(one, e));
}

HWY_INLINE V KeepNaN(V x, V result) { return hn::IfThenElse(hn::IsNaN(x), x, result); }

template <typename Function>
HWY_INLINE void MapInPlace(float* x, int64_t n, Function f) {
  ForRow(n, [=](int64_t i, int64_t count) { Store(f(Load(x + i, count)), x + i, count); });
}

void TanhInPlace(float* x, int64_t n) {
  MapInPlace(x, n, [](V v) { return KeepNaN(v, hn::Tanh(F(), v)); });
}

void SigmoidInPlace(float* x, int64_t n) {
  MapInPlace(x, n, [](V v) { return SigmoidOf(v); });
}

void SiluInPlace(float* x, int64_t n) {
  MapInPlace(x, n, [](V v) { return hn::Mul(v, SigmoidOf(v)); });
}

void Elu1InPlace(float* x, int64_t n) {
  MapInPlace(x, n, [](V v) {
    const F d;
    const auto positive = hn::Gt(v, hn::Zero(d));
    return hn::IfThenElse(positive, hn::Add(v, hn::Set(d, 1.0f)), SafeExp(v));
  });
}

void ReluInPlace(float* x, int64_t n) {
  MapInPlace(x, n, [](V v) { return KeepNaN(v, hn::Max(v, hn::Zero(F()))); });
}

void Log1pInPlace(float* x, int64_t n) {
  MapInPlace(x, n, [](V v) {
    const F d;
    // The library's function is for finite results.
    const V least = hn::Set(d, -std::numeric_limits<float>::infinity());
    const V most = hn::Set(d, std::numeric_limits<float>::infinity());
    V result = hn::Log1p(d, v);
    result = hn::IfThenElse(hn::Eq(v, hn::Set(d, -1.0f)), least, result);
    result = hn::IfThenElse(hn::Eq(v, most), most, result);
    return KeepNaN(v, result);
  });
}

float ExpShifted(const float* x, float shift, float* out, int64_t n) {
  const F d;
  V sum = hn::Zero(d);
  ForRow(n, [&](int64_t i, int64_t count) {
    const V e = SafeExp(hn::Sub(Load(x + i, count), hn::Set(d, shift)));
    Store(e, out + i, count);
    sum = hn::Add(sum, Masked(e, count, 0.0f));
  });
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

void ExpDifference(const float* a, const float* b, float* out, int64_t n) {
  ForRow(n, [=](int64_t i, int64_t count) {
    Store(SafeExp(hn::Sub(Load(a + i, count), Load(b + i, count))), out + i, count);
  });
}

float DotDecayedRow(const float* a, const float* b, const float* gate, float* sum, int64_t n) {
  const F d;
  V total = hn::Zero(d);
  ForRow(n, [&](int64_t i, int64_t count) {
    const V decay = hn::Add(Load(sum + i, count), Load(gate + i, count));
    Store(decay, sum + i, count);
    total = hn::MulAdd(hn::Mul(Load(a + i, count), Load(b + i, count)), SafeExp(decay), total);
  });
  return hn::GetLane(hn::SumOfLanes(d, total));
}

float Sum(const float* x, int64_t n) {
  const F d;
  V sum = hn::Zero(d);
  ForRow(n, [&](int64_t i, int64_t count) { sum = hn::Add(sum, Load(x + i, count)); });
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

float Max(const float* x, int64_t n) {
  const F d;
  const V least = hn::Set(d, -std::numeric_limits<float>::infinity());
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  // Two chains, since one waits for each maximum; NaN is collected apart, as a sum that it spoils.
  V most[2] = {least, least};
  V nan[2] = {hn::Zero(d), hn::Zero(d)};
  const auto take = [&](V v, int chain) {
    nan[chain] = hn::IfThenElse(hn::IsNaN(v), v, nan[chain]);
    most[chain] = hn::Max(most[chain], v);
  };
  int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    take(hn::LoadU(d, x + i), 0);
    take(hn::LoadU(d, x + i + lanes), 1);
  }
  ForRow(n - i, [&](int64_t j, int64_t count) {
    take(Masked(Load(x + i + j, count), count, -std::numeric_limits<float>::infinity()), 0);
  });
  const float any = hn::GetLane(hn::SumOfLanes(d, hn::Add(nan[0], nan[1])));
  return std::isnan(any) ? any : hn::GetLane(hn::MaxOfLanes(d, hn::Max(most[0], most[1])));
}

// Zero times anything that is not finite is NaN, which the sum keeps.
bool AllFinite(const float* x, int64_t n) {
  const F d;
  V sum = hn::Zero(d);
  ForRow(n,
         [&](int64_t i, int64_t count) { sum = hn::MulAdd(hn::Zero(d), Load(x + i, count), sum); });
  return !std::isnan(hn::GetLane(hn::SumOfLanes(d, sum)));
}

float Dot(const float* a, const float* b, int64_t n) {
  const F d;
  V sum = hn::Zero(d);
  ForRow(n, [&](int64_t i, int64_t count) {
    sum = hn::MulAdd(Load(a + i, count), Load(b + i, count), sum);
  });
  return hn::GetLane(hn::SumOfLanes(d, sum));
}

void Scale(float* x, float factor, int64_t n) {
  for (int64_t i = 0; i < n; ++i) x[i] *= factor;
}

void ScaleEach(float* x, int64_t rows, int64_t n, int64_t stride, const float* factors,
               int64_t step) {
  for (int64_t i = 0; i < rows; ++i) Scale(x + i * stride, factors[i * step], n);
}

void Mul(const float* a, const float* b, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = a[i] * b[i];
}

void Axpy(float a, const float* x, float* y, int64_t n) {
  const F d;
  ForRow(n, [=](int64_t i, int64_t count) {
    Store(hn::MulAdd(hn::Set(d, a), Load(x + i, count), Load(y + i, count)), y + i, count);
  });
}

void MulAdd(const float* a, const float* b, float* y, int64_t n) {
  ForRow(n, [=](int64_t i, int64_t count) {
    Store(hn::MulAdd(Load(a + i, count), Load(b + i, count), Load(y + i, count)), y + i, count);
  });
}

void FadeAdd(float a, const float* x, const float* decay, float* y, int64_t n) {
  ForRow(n, [=](int64_t i, int64_t count) {
    const V added = hn::Mul(hn::Set(F(), a), Load(x + i, count));
    Store(hn::MulAdd(Load(y + i, count), Load(decay + i, count), added), y + i, count);
  });
}

void Add(const float* a, const float* b, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
}

}  // namespace attnd::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnd::cpu {

HWY_EXPORT(LoadHalf);
HWY_EXPORT(StoreHalf);
HWY_EXPORT(LoadBFloat16);
HWY_EXPORT(StoreBFloat16);
HWY_EXPORT(Exp);
HWY_EXPORT(TanhInPlace);
HWY_EXPORT(SigmoidInPlace);
HWY_EXPORT(SiluInPlace);
HWY_EXPORT(Elu1InPlace);
HWY_EXPORT(ReluInPlace);
HWY_EXPORT(Log1pInPlace);
HWY_EXPORT(ExpShifted);
HWY_EXPORT(ExpDifference);
HWY_EXPORT(DotDecayedRow);
HWY_EXPORT(Sum);
HWY_EXPORT(Max);
HWY_EXPORT(AllFinite);
HWY_EXPORT(Dot);
HWY_EXPORT(Scale);
HWY_EXPORT(ScaleEach);
HWY_EXPORT(Mul);
HWY_EXPORT(Axpy);
HWY_EXPORT(MulAdd);
HWY_EXPORT(FadeAdd);
HWY_EXPORT(Add);

void LoadRow(const void* x, DType dtype, float* out, int64_t n) {
  switch (dtype) {
    case DType::kFloat16:
      return HWY_DYNAMIC_DISPATCH(LoadHalf)(static_cast<const Half*>(x), out, n);
    case DType::kBFloat16:
      return HWY_DYNAMIC_DISPATCH(LoadBFloat16)(static_cast<const BFloat16*>(x), out, n);
    default:
      if (n > 0) std::memcpy(out, x, static_cast<size_t>(n) * sizeof(float));
  }
}

void StoreRow(const float* x, DType dtype, void* out, int64_t n) {
  switch (dtype) {
    case DType::kFloat16:
      return HWY_DYNAMIC_DISPATCH(StoreHalf)(x, static_cast<Half*>(out), n);
    case DType::kBFloat16:
      return HWY_DYNAMIC_DISPATCH(StoreBFloat16)(x, static_cast<BFloat16*>(out), n);
    default:
      if (n > 0) std::memcpy(out, x, static_cast<size_t>(n) * sizeof(float));
  }
}

void ExpRow(float* x, int64_t n) { HWY_DYNAMIC_DISPATCH(Exp)(x, n); }

void TanhRow(float* x, int64_t n) { HWY_DYNAMIC_DISPATCH(TanhInPlace)(x, n); }
void SigmoidRow(float* x, int64_t n) { HWY_DYNAMIC_DISPATCH(SigmoidInPlace)(x, n); }
void SiluRow(float* x, int64_t n) { HWY_DYNAMIC_DISPATCH(SiluInPlace)(x, n); }
void Elu1Row(float* x, int64_t n) { HWY_DYNAMIC_DISPATCH(Elu1InPlace)(x, n); }
void ReluRow(float* x, int64_t n) { HWY_DYNAMIC_DISPATCH(ReluInPlace)(x, n); }
void Log1pRow(float* x, int64_t n) { HWY_DYNAMIC_DISPATCH(Log1pInPlace)(x, n); }

float ExpShiftedRow(const float* x, float shift, float* out, int64_t n) {
  return HWY_DYNAMIC_DISPATCH(ExpShifted)(x, shift, out, n);
}

void ExpDifferenceRow(const float* a, const float* b, float* out, int64_t n) {
  HWY_DYNAMIC_DISPATCH(ExpDifference)(a, b, out, n);
}

float DotDecayed(const float* a, const float* b, const float* gate, float* sum, int64_t n) {
  return HWY_DYNAMIC_DISPATCH(DotDecayedRow)(a, b, gate, sum, n);
}

float SumRow(const float* x, int64_t n) { return HWY_DYNAMIC_DISPATCH(Sum)(x, n); }
float MaxRow(const float* x, int64_t n) { return HWY_DYNAMIC_DISPATCH(Max)(x, n); }
bool AllFiniteRow(const float* x, int64_t n) { return HWY_DYNAMIC_DISPATCH(AllFinite)(x, n); }
float DotRow(const float* a, const float* b, int64_t n) {
  return HWY_DYNAMIC_DISPATCH(Dot)(a, b, n);
}
void ScaleRow(float* x, float factor, int64_t n) { HWY_DYNAMIC_DISPATCH(Scale)(x, factor, n); }
void ScaleRows(float* x, int64_t rows, int64_t n, int64_t stride, const float* factors,
               int64_t step) {
  HWY_DYNAMIC_DISPATCH(ScaleEach)(x, rows, n, stride, factors, step);
}
void MulRow(const float* a, const float* b, float* out, int64_t n) {
  HWY_DYNAMIC_DISPATCH(Mul)(a, b, out, n);
}
void AxpyRow(float a, const float* x, float* y, int64_t n) {
  HWY_DYNAMIC_DISPATCH(Axpy)(a, x, y, n);
}
void MulAddRow(const float* a, const float* b, float* y, int64_t n) {
  HWY_DYNAMIC_DISPATCH(MulAdd)(a, b, y, n);
}
void FadeAddRow(float a, const float* x, const float* decay, float* y, int64_t n) {
  HWY_DYNAMIC_DISPATCH(FadeAdd)(a, x, decay, y, n);
}
void AddRow(const float* a, const float* b, float* out, int64_t n) {
  HWY_DYNAMIC_DISPATCH(Add)(a, b, out, n);
}

}  // namespace attnd::cpu
#endif  // HWY_ONCE
