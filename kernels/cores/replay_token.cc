#include "kernels/cores/replay_token.h"

#include "kernels/cores/recurrent_tiles.h"

// The file is compiled once for each instruction set; the first pass defines the dispatch.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cores/replay_token.cc"
// The order is the mechanism:
// clang-format off
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace attnd::cpu::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using F = hn::CappedTag<float, 16>;
using V = hn::Vec<F>;
using M = hn::Mask<F>;

constexpr int64_t kLanes = hn::MaxLanes(F());
// Vectors side by side: with two rows that read, as many sums as keep the units busy.
constexpr int kMostAcross = 4;
constexpr int64_t kMostColumns = kMostAcross * kLanes;

// Asks for `count` floats for the second level of cache: the first is full of what is being read.
HWY_INLINE void Fetch(const float* at, int64_t count) {
  constexpr int64_t kLine = 16;
  for (int64_t i = 0; i < count; i += kLine) __builtin_prefetch(at + i, 0, 2);
}

// kAcross vectors of a row; of a single one, only the lanes of `mask`.
template <int kAcross>
HWY_INLINE void Load(const float* at, M mask, V* row) {
  if constexpr (kAcross == 1) {
    row[0] = hn::MaskedLoad(mask, F(), at);
  } else {
    for (int j = 0; j < kAcross; ++j) row[j] = hn::LoadU(F(), at + j * kLanes);
  }
}

template <int kAcross>
HWY_INLINE void Store(const V* row, M mask, float* at) {
  if constexpr (kAcross == 1) {
    hn::BlendedStore(row[0], mask, F(), at);
  } else {
    for (int j = 0; j < kAcross; ++j) hn::StoreU(row[j], F(), at + j * kLanes);
  }
}

// body(column, across, mask) for all of a row's columns: as many vectors as possible at a time,
// then one, then what is left of one.
template <typename Body>
HWY_INLINE void ForColumns(int64_t columns, Body&& body) {
  const M all = hn::FirstN(F(), static_cast<size_t>(kLanes));
  int64_t at = 0;
  for (; at + kMostColumns <= columns; at += kMostColumns) {
    body(at, std::integral_constant<int, kMostAcross>(), all);
  }
  for (; at < columns; at += kLanes) {
    const auto left = static_cast<size_t>(columns - at < kLanes ? columns - at : kLanes);
    body(at, std::integral_constant<int, 1>(), hn::FirstN(F(), left));
  }
}

// sums[a] += sum over i of factors[a,i] rows[i], one row after the other.
template <int kReads, int kAcross>
HWY_INLINE void Chain(int64_t depth, const float* factors, int64_t factor_stride, const float* rows,
                      int64_t stride, const float* next, M mask, V (&sums)[kReads][kAcross]) {
  for (int64_t i = 0; i < depth; ++i) {
    V row[kAcross];
    Load<kAcross>(rows + i * stride, mask, row);
    if (next != nullptr) Fetch(next + i * stride, kAcross * kLanes);
    for (int a = 0; a < kReads; ++a) {
      const V factor = hn::Set(F(), factors[a * factor_stride + i]);
      for (int j = 0; j < kAcross; ++j) sums[a][j] = hn::MulAdd(factor, row[j], sums[a][j]);
    }
  }
}

template <int kReads>
HWY_INLINE void Anchor(int64_t key_size, int64_t value_size, const float* asked,
                       const float* anchor, const float* next, float* read) {
  ForColumns(value_size, [&](int64_t at, auto across, M mask) {
    constexpr int kAcross = decltype(across)::value;
    V sums[kReads][kAcross];
    for (auto& row : sums) {
      for (V& sum : row) sum = hn::Zero(F());
    }
    Chain(key_size, asked, key_size, anchor + at, value_size, next == nullptr ? nullptr : next + at,
          mask, sums);
    for (int a = 0; a < kReads; ++a) Store<kAcross>(sums[a], mask, read + a * value_size + at);
  });
}

// Vectors [first, first + kAcross) of every channel's keys, the new key in the last vector that
// there is: decayed, kept, and multiplied. Lanes behind the new key become zeros.
template <int kReads, int kAcross, bool kDecays, bool kNewest>
HWY_INLINE void Keys(const ReplayToken& t, int64_t first) {
  const F d;
  V sums[kReads][kAcross];
  for (auto& row : sums) {
    for (V& sum : row) sum = hn::Zero(d);
  }
  const auto own = static_cast<size_t>(t.before % kLanes);
  const M before = hn::FirstN(d, own), until = hn::FirstN(d, own + 1);
  float* keys = t.keys + first;
  const float* next = t.next_keys == nullptr ? nullptr : t.next_keys + first;
  for (int64_t c = 0; c < t.key_size; ++c, keys += kChunk) {
    V row[kAcross];
    for (int j = 0; j < kAcross; ++j) row[j] = hn::LoadU(d, keys + j * kLanes);
    if (next != nullptr) Fetch(next + c * kChunk, kAcross * kLanes);
    if constexpr (kDecays) {
      const V decay = hn::Set(d, t.decay[c * t.decay_step]);
      for (int j = 0; j < kAcross; ++j) row[j] = hn::Mul(row[j], decay);
    }
    if constexpr (kNewest) {
      V& last = row[kAcross - 1];
      last = hn::IfThenElseZero(until, hn::IfThenElse(before, last, hn::Set(d, t.key[c])));
    }
    for (int j = kDecays ? 0 : kAcross - 1; j < kAcross; ++j) {
      if (kDecays || kNewest) hn::StoreU(row[j], d, keys + j * kLanes);
    }
    for (int a = 0; a < kReads; ++a) {
      const V factor = hn::Set(d, t.asked[a * t.key_size + c]);
      for (int j = 0; j < kAcross; ++j) sums[a][j] = hn::MulAdd(factor, row[j], sums[a][j]);
    }
  }
  for (int a = 0; a < kReads; ++a) {
    for (int j = 0; j < kAcross; ++j) {
      hn::StoreU(sums[a][j], d, t.weights + a * kChunk + first + j * kLanes);
    }
  }
}

// The last `across` vectors.
template <int kReads, bool kDecays, int kAcross = kMostAcross>
HWY_INLINE void LastKeys(const ReplayToken& t, int64_t first, int64_t across) {
  if constexpr (kAcross > 1) {
    if (across < kAcross) return LastKeys<kReads, kDecays, kAcross - 1>(t, first, across);
  }
  Keys<kReads, kAcross, kDecays, true>(t, first);
}

template <int kReads, bool kDecays>
HWY_INLINE void AllKeys(const ReplayToken& t) {
  int64_t first = 0;
  for (; first + kMostColumns <= t.before; first += kMostColumns) {
    Keys<kReads, kMostAcross, kDecays, false>(t, first);
  }
  LastKeys<kReads, kDecays>(t, first, (t.before - first) / kLanes + 1);
}

template <int kReads>
HWY_INLINE void Values(const ReplayToken& t) {
  const F d;
  const int64_t width = t.value_size;
  ForColumns(width, [&](int64_t at, auto across, M mask) {
    constexpr int kAcross = decltype(across)::value;
    V sums[kReads][kAcross];
    for (int a = 0; a < kReads; ++a) Load<kAcross>(t.read + a * width + at, mask, sums[a]);
    Chain(t.before, t.weights, kChunk, t.values + at, width,
          t.next_values == nullptr ? nullptr : t.next_values + at, mask, sums);
    V value[kAcross];
    Load<kAcross>(t.value + at, mask, value);
    if constexpr (kReads == 2) {
      const V beta = hn::Set(d, t.beta);
      for (int j = 0; j < kAcross; ++j) value[j] = hn::Mul(hn::Sub(value[j], sums[1][j]), beta);
    }
    Store<kAcross>(value, mask, t.values + t.before * width + at);
    const V own = hn::Set(d, t.weights[t.before]);
    for (int j = 0; j < kAcross; ++j) sums[0][j] = hn::MulAdd(own, value[j], sums[0][j]);
    Store<kAcross>(sums[0], mask, t.y + at);
  });
}

template <int kReads>
HWY_INLINE void Token(const ReplayToken& t) {
  if (t.decay != nullptr) {
    AllKeys<kReads, true>(t);
  } else {
    AllKeys<kReads, false>(t);
  }
  Values<kReads>(t);
}

void PlainAnchor(int64_t key_size, int64_t value_size, const float* asked, const float* anchor,
                 const float* next, float* read) {
  Anchor<1>(key_size, value_size, asked, anchor, next, read);
}

void DeltaAnchor(int64_t key_size, int64_t value_size, const float* asked, const float* anchor,
                 const float* next, float* read) {
  Anchor<2>(key_size, value_size, asked, anchor, next, read);
}

void PlainToken(const ReplayToken& t) { Token<1>(t); }
void DeltaToken(const ReplayToken& t) { Token<2>(t); }

}  // namespace attnd::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnd::cpu {

HWY_EXPORT(PlainAnchor);
HWY_EXPORT(DeltaAnchor);
HWY_EXPORT(PlainToken);
HWY_EXPORT(DeltaToken);

void ReadAnchor(int64_t reads, int64_t key_size, int64_t value_size, const float* asked,
                const float* anchor, const float* next, float* read) {
  if (reads == 1) {
    HWY_DYNAMIC_DISPATCH(PlainAnchor)(key_size, value_size, asked, anchor, next, read);
  } else {
    HWY_DYNAMIC_DISPATCH(DeltaAnchor)(key_size, value_size, asked, anchor, next, read);
  }
}

void RunToken(const ReplayToken& token) {
  if (token.reads == 1) {
    HWY_DYNAMIC_DISPATCH(PlainToken)(token);
  } else {
    HWY_DYNAMIC_DISPATCH(DeltaToken)(token);
  }
}

}  // namespace attnd::cpu
#endif  // HWY_ONCE
