#include "kernels/cores/replay_token.h"

#include <algorithm>
#include <type_traits>

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
// Vectors of a channel's keys.
constexpr int kKeyVectors = static_cast<int>(kReplayChunk / kLanes);
// Vectors of values side by side: with two rows that read, as many sums as keep the units busy.
constexpr int kMostAcross = 4;
constexpr int64_t kMostColumns = kMostAcross * kLanes;

// Asks for `count` floats for the second level of cache: the first is full of what is being read.
HWY_INLINE void Fetch(const float* at, int64_t count) {
  constexpr int64_t kLine = 16;
  for (int64_t i = 0; i < count; i += kLine) __builtin_prefetch(at + i, 0, 2);
}

HWY_INLINE const float* Behind(const float* at, int64_t columns) {
  return at == nullptr ? nullptr : at + columns;
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

// body(column, across, mask) for columns [first, columns): as many vectors as possible at a time,
// then one, then what is left of one.
template <typename Body>
HWY_INLINE void ForColumns(int64_t first, int64_t columns, Body&& body) {
  int64_t at = first;
  for (; at + kMostColumns <= columns; at += kMostColumns) {
    body(at, std::integral_constant<int, kMostAcross>(), hn::FirstN(F(), kLanes));
  }
  for (; at < columns; at += kLanes) {
    const auto left = static_cast<size_t>(std::min(columns - at, kLanes));
    body(at, std::integral_constant<int, 1>(), hn::FirstN(F(), left));
  }
}

// sums[a] += factors[a] row.
template <int kReads, int kAcross>
HWY_INLINE void MulAdd(const float* factors, int64_t factor_stride, const V* row, V* sums) {
  for (int a = 0; a < kReads; ++a) {
    const V factor = hn::Set(F(), factors[a * factor_stride]);
    for (int j = 0; j < kAcross; ++j) {
      sums[a * kAcross + j] = hn::MulAdd(factor, row[j], sums[a * kAcross + j]);
    }
  }
}

// sums += factors^T rows: one row after the other.
template <int kReads, int kAcross>
HWY_INLINE void Chain(int64_t depth, const float* factors, int64_t factor_stride, const float* rows,
                      int64_t stride, const float* next, M mask, V* sums) {
  for (int64_t i = 0; i < depth; ++i) {
    V row[kAcross];
    Load<kAcross>(rows + i * stride, mask, row);
    if (next != nullptr) Fetch(next + i * stride, kAcross * kLanes);
    MulAdd<kReads, kAcross>(factors + i, factor_stride, row, sums);
  }
}

// The chunk's keys, all lanes of it: decayed, the new one added, kept, and multiplied. Lanes behind
// the new key become zeros. Beside them the anchor's first kAcross vectors, whose sums keep the
// units busy while those of the keys wait for each other.
template <int kReads, int kAcross>
HWY_INLINE void KeysAndAnchor(const ReplayToken& t) {
  const F d;
  M before[kKeyVectors], until[kKeyVectors];
  for (int j = 0; j < kKeyVectors; ++j) {
    const int64_t own = t.before - j * kLanes;
    before[j] = hn::FirstN(d, static_cast<size_t>(std::clamp<int64_t>(own, 0, kLanes)));
    until[j] = hn::FirstN(d, static_cast<size_t>(std::clamp<int64_t>(own + 1, 0, kLanes)));
  }
  V weights[kReads * kKeyVectors], read[kReads * kAcross + 1];
  for (V& sum : weights) sum = hn::Zero(d);
  for (V& sum : read) sum = hn::Zero(d);
  constexpr float kNone = 1;
  const float* decays = t.decay == nullptr ? &kNone : t.decay;
  const int64_t decay_step = t.decay == nullptr ? 0 : t.decay_step;
  for (int64_t c = 0; c < t.key_size; ++c) {
    if constexpr (kAcross > 0) {
      V row[kAcross];
      for (int j = 0; j < kAcross; ++j)
        row[j] = hn::LoadU(d, t.anchor + c * t.value_size + j * kLanes);
      if (t.next_anchor != nullptr) {
        Fetch(t.next_anchor + c * t.value_size, kAcross * kLanes);
        Fetch(t.next_keys + c * kReplayChunk, kReplayChunk);
      }
      MulAdd<kReads, kAcross>(t.since_start + c, t.key_size, row, read);
    }
    const V decay = hn::Set(d, decays[c * decay_step]), key = hn::Set(d, t.key[c]);
    V row[kKeyVectors];
    for (int j = 0; j < kKeyVectors; ++j) {
      float* at = t.keys + c * kReplayChunk + j * kLanes;
      const V old = hn::Mul(hn::LoadU(d, at), decay);
      row[j] = hn::IfThenElseZero(until[j], hn::IfThenElse(before[j], old, key));
      hn::StoreU(row[j], d, at);
    }
    MulAdd<kReads, kKeyVectors>(t.asked + c, t.key_size, row, weights);
  }
  for (int a = 0; a < kReads; ++a) {
    for (int j = 0; j < kKeyVectors; ++j) {
      hn::StoreU(weights[a * kKeyVectors + j], d, t.weights + a * kReplayChunk + j * kLanes);
    }
    for (int j = 0; j < kAcross; ++j) {
      hn::StoreU(read[a * kAcross + j], d, t.read + a * t.value_size + j * kLanes);
    }
  }
}

// Columns [first, V) of what the anchor holds.
template <int kReads>
HWY_INLINE void Anchor(const ReplayToken& t, int64_t first) {
  ForColumns(first, t.value_size, [&](int64_t at, auto across, M mask) {
    constexpr int kAcross = decltype(across)::value;
    V sums[kReads * kAcross];
    for (V& sum : sums) sum = hn::Zero(F());
    Chain<kReads, kAcross>(t.key_size, t.since_start, t.key_size, t.anchor + at, t.value_size,
                           Behind(t.next_anchor, at), mask, sums);
    for (int a = 0; a < kReads; ++a) {
      Store<kAcross>(sums + a * kAcross, mask, t.read + a * t.value_size + at);
    }
  });
}

template <int kReads>
HWY_INLINE void Values(const ReplayToken& t) {
  const F d;
  const int64_t width = t.value_size;
  ForColumns(0, width, [&](int64_t at, auto across, M mask) {
    constexpr int kAcross = decltype(across)::value;
    V sums[kReads * kAcross];
    for (int a = 0; a < kReads; ++a) {
      Load<kAcross>(t.read + a * width + at, mask, sums + a * kAcross);
    }
    Chain<kReads, kAcross>(t.before, t.weights, kReplayChunk, t.values + at, width,
                           Behind(t.next_values, at), mask, sums);
    V value[kAcross];
    Load<kAcross>(t.value + at, mask, value);
    if constexpr (kReads == 2) {
      const V beta = hn::Set(d, t.beta);
      for (int j = 0; j < kAcross; ++j) {
        value[j] = hn::Mul(hn::Sub(value[j], sums[kAcross + j]), beta);
      }
    }
    Store<kAcross>(value, mask, t.values + t.before * width + at);
    MulAdd<1, kAcross>(t.weights + t.before, 0, value, sums);
    Store<kAcross>(sums, mask, t.y + at);
  });
}

template <int kReads>
HWY_INLINE void Token(const ReplayToken& t) {
  if (t.anchor == nullptr) {
    KeysAndAnchor<kReads, 0>(t);
  } else if (t.value_size < kMostColumns) {
    KeysAndAnchor<kReads, 0>(t);
    Anchor<kReads>(t, 0);
  } else {
    KeysAndAnchor<kReads, kMostAcross>(t);
    Anchor<kReads>(t, kMostColumns);
  }
  Values<kReads>(t);
}

void PlainToken(const ReplayToken& t) { Token<1>(t); }
void DeltaToken(const ReplayToken& t) { Token<2>(t); }

}  // namespace attnd::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace attnd::cpu {

HWY_EXPORT(PlainToken);
HWY_EXPORT(DeltaToken);

void RunToken(const ReplayToken& token) {
  if (token.reads == 1) {
    HWY_DYNAMIC_DISPATCH(PlainToken)(token);
  } else {
    HWY_DYNAMIC_DISPATCH(DeltaToken)(token);
  }
}

}  // namespace attnd::cpu
#endif  // HWY_ONCE
