#include "kernels/cores/replay_recurrence.h"

#include <algorithm>

#include "kernels/primitives/cpu/ordered_product.h"
#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"

namespace attnd::cpu {
namespace {

// Tokens of one call within one chunk.
class ChunkRows {
 public:
  ChunkRows(const ReplayShape& shape, const ReplayLayout& layout, const ReplayRows& rows,
            int64_t first, int64_t count, float* state)
      : shape_(shape),
        rows_(rows),
        first_(first),
        count_(count),
        K_(shape.key_size),
        V_(shape.value_size),
        gates_(shape.decay == Decay::kVector ? K_ : 1),
        anchor_(state),
        z_(state + K_ * V_),
        since_start_(state + layout.since_start),
        keys_(state + layout.keys),
        values_(state + layout.values),
        decays_(scratch_.Take<float>(count * gates_)),
        q_(scratch_.Take<float>(count * K_)),
        k_(scratch_.Take<float>(count * K_)),
        read_(scratch_.Take<float>(count * V_)),
        weights_(scratch_.Take<float>(kChunk)) {}

  // `before` tokens of the running chunk are in the state.
  void Run(int64_t before) {
    if (before == 0) std::fill_n(since_start_, gates_, 1.0f);
    FromAnchor();
    for (int64_t i = 0; i < count_; ++i) Token(i, before + i);
    if (before + count_ == kChunk) MoveAnchor();
  }

 private:
  bool decays() const { return shape_.decay != Decay::kNone; }

  // out = x e^G for the decay G since the chunk's start.
  void SinceStart(const float* x, float* out) const {
    if (gates_ == 1) {
      std::copy_n(x, K_, out);
      if (decays()) ScaleRow(out, *since_start_, K_);
    } else {
      MulRow(x, since_start_, out, K_);
    }
  }

  // y = (q e^G)^T S for every row, and for the delta rule the same of the keys.
  void FromAnchor() {
    for (int64_t i = 0; i < count_; ++i) {
      float* decay = decays_ + i * gates_;
      if (decays()) {
        std::copy_n(rows_.g + (first_ + i) * rows_.g_stride, gates_, decay);
        ExpRow(decay, gates_);
        MulRow(since_start_, decay, since_start_, gates_);
      }
      SinceStart(rows_.q + (first_ + i) * rows_.q_stride, q_ + i * K_);
      if (shape_.delta) SinceStart(rows_.k + (first_ + i) * rows_.k_stride, k_ + i * K_);
    }
    OrderedProduct(count_, V_, K_, q_, K_, anchor_, V_, rows_.y + first_ * rows_.y_stride,
                   rows_.y_stride, false);
    if (shape_.delta) OrderedProduct(count_, V_, K_, k_, K_, anchor_, V_, read_, V_, false);
  }

  // weights = x^T K for the first `count` keys of the chunk. Whole panels: what the columns beyond
  // hold is not read.
  void Weigh(const float* x, int64_t count) const {
    constexpr int64_t kStep = 32;
    OrderedProduct(1, (count + kStep - 1) / kStep * kStep, K_, x, K_, keys_, kChunk, weights_,
                   kChunk, false);
  }

  // Token i of the call, token r of the chunk.
  void Token(int64_t i, int64_t r) {
    if (decays()) DecayKeys(decays_ + i * gates_, r);
    const float* key = rows_.k + (first_ + i) * rows_.k_stride;
    float* value = values_ + r * V_;
    std::copy_n(rows_.v + (first_ + i) * rows_.v_stride, V_, value);
    if (shape_.delta) {
      Weigh(key, r);
      OrderedProduct(1, V_, r, weights_, kChunk, values_, V_, read_ + i * V_, V_, true);
      AxpyRow(-1.0f, read_ + i * V_, value, V_);
      if (rows_.beta != nullptr) {
        ScaleRow(value, rows_.beta[(first_ + i) * rows_.beta_stride], V_);
      }
    }
    for (int64_t c = 0; c < K_; ++c) keys_[c * kChunk + r] = key[c];
    const float* query = rows_.q + (first_ + i) * rows_.q_stride;
    Weigh(query, r + 1);
    OrderedProduct(1, V_, r + 1, weights_, kChunk, values_, V_,
                   rows_.y + (first_ + i) * rows_.y_stride, V_, true);
    if (shape_.normalise) {
      float dot = DotRow(q_ + i * K_, z_, K_);
      for (int64_t s = 0; s <= r; ++s) dot += weights_[s];
      rows_.dots[(first_ + i) * rows_.dots_stride] = dot;
    }
  }

  // The first r keys of the chunk, by one token more.
  void DecayKeys(const float* decay, int64_t r) {
    ScaleRows(keys_, K_, r, kChunk, decay, gates_ == 1 ? 0 : 1);
  }

  // S = e^G S + K^T U at the chunk's end.
  void MoveAnchor() {
    if (decays()) {
      const int64_t step = gates_ == 1 ? 0 : 1;
      ScaleRows(anchor_, K_, V_, V_, since_start_, step);
      if (shape_.normalise) ScaleRows(z_, K_, 1, 1, since_start_, step);
    }
    OrderedProduct(K_, V_, kChunk, keys_, kChunk, values_, V_, anchor_, V_, true);
    if (!shape_.normalise) return;
    for (int64_t c = 0; c < K_; ++c) {
      for (int64_t s = 0; s < kChunk; ++s) z_[c] += keys_[c * kChunk + s];
    }
  }

  const ReplayShape& shape_;
  const ReplayRows& rows_;
  const int64_t first_, count_, K_, V_, gates_;
  float *anchor_, *z_, *since_start_, *keys_, *values_;
  Scratch scratch_;
  float* decays_;   // [count,gates]: e^g.
  float *q_, *k_;   // [count,K], decayed since the chunk's start.
  float* read_;     // [count,V]: what the memory holds under each key.
  float* weights_;  // [kChunk]
};

}  // namespace

ReplayLayout::ReplayLayout(const ReplayShape& shape) {
  const int64_t K = shape.key_size, V = shape.value_size;
  anchor = K * V + (shape.normalise ? K : 0);
  since_start = anchor;
  keys = since_start + (shape.decay == Decay::kVector ? K : 1);
  values = keys + K * kChunk;
  size = values + kChunk * V;
}

void Replay(const ReplayShape& shape, int64_t position, const ReplayRows& rows, float* state) {
  const ReplayLayout layout(shape);
  for (int64_t first = 0; first < rows.count;) {
    const int64_t before = (position + first) % kChunk;
    const int64_t count = std::min(rows.count - first, kChunk - before);
    ChunkRows(shape, layout, rows, first, count, state).Run(before);
    first += count;
  }
}

}  // namespace attnd::cpu
