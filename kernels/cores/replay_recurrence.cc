#include "kernels/cores/replay_recurrence.h"

#include <algorithm>

#include "kernels/cores/replay_token.h"
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
        reads_(shape.delta ? 2 : 1),
        decays_(scratch_.Take<float>(count * gates_)),
        asked_(scratch_.Take<float>(count * reads_ * K_)),
        read_(scratch_.Take<float>(count * reads_ * V_)),
        pair_(scratch_.Take<float>(reads_ * K_)),
        weights_(scratch_.Take<float>(reads_ * kReplayChunk)) {}

  // `before` tokens of the running chunk are in the state.
  void Run(int64_t before) {
    if (before == 0) std::fill_n(since_start_, gates_, 1.0f);
    FromAnchor();
    for (int64_t i = 0; i < count_; ++i) Token(i, before + i);
    if (before + count_ == kReplayChunk) MoveAnchor();
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

  // (q e^G)^T S for every row, and for the delta rule the same of the keys, side by side: the
  // anchor is read once.
  void FromAnchor() {
    for (int64_t i = 0; i < count_; ++i) {
      float* decay = decays_ + i * gates_;
      if (decays()) {
        std::copy_n(rows_.g + (first_ + i) * rows_.g_stride, gates_, decay);
        ExpRow(decay, gates_);
        MulRow(since_start_, decay, since_start_, gates_);
      }
      float* asked = asked_ + i * reads_ * K_;
      SinceStart(Query(i), asked);
      if (shape_.delta) SinceStart(Key(i), asked + K_);
    }
    // One token's are read beside its keys.
    if (count_ == 1) return;
    OrderedProduct(count_ * reads_, V_, K_, asked_, K_, anchor_, V_, read_, V_, false);
  }

  const float* Query(int64_t i) const { return rows_.q + (first_ + i) * rows_.q_stride; }
  const float* Key(int64_t i) const { return rows_.k + (first_ + i) * rows_.k_stride; }

  // Token i of the call, token r of the chunk. What the query and the key find in the chunk so far
  // is found in one go, in the order of its tokens; then the query finds the token itself.
  void Token(int64_t i, int64_t r) {
    std::copy_n(Query(i), K_, pair_);
    if (shape_.delta) std::copy_n(Key(i), K_, pair_ + K_);
    ReplayToken token;
    token.reads = reads_;
    token.key_size = K_;
    token.value_size = V_;
    token.before = r;
    token.keys = keys_;
    token.values = values_;
    if (decays()) token.decay = decays_ + i * gates_;
    token.decay_step = gates_ == 1 ? 0 : 1;
    token.key = Key(i);
    token.value = rows_.v + (first_ + i) * rows_.v_stride;
    if (rows_.beta != nullptr) token.beta = rows_.beta[(first_ + i) * rows_.beta_stride];
    token.asked = pair_;
    token.weights = weights_;
    if (count_ == 1) {
      token.anchor = anchor_;
      token.since_start = asked_;
    }
    token.read = read_ + i * reads_ * V_;
    token.y = rows_.y + (first_ + i) * rows_.y_stride;
    if (rows_.next_state != nullptr) {
      token.next_anchor = rows_.next_state;
      token.next_keys = rows_.next_state + (keys_ - anchor_);
      token.next_values = rows_.next_state + (values_ - anchor_);
    }
    RunToken(token);
    if (shape_.normalise) {
      float dot = DotRow(asked_ + i * reads_ * K_, z_, K_);
      for (int64_t s = 0; s <= r; ++s) dot += weights_[s];
      rows_.dots[(first_ + i) * rows_.dots_stride] = dot;
    }
  }

  // S = e^G S + K^T U at the chunk's end.
  void MoveAnchor() {
    if (decays()) {
      const int64_t step = gates_ == 1 ? 0 : 1;
      ScaleRows(anchor_, K_, V_, V_, since_start_, step);
      if (shape_.normalise) ScaleRows(z_, K_, 1, 1, since_start_, step);
    }
    OrderedProduct(K_, V_, kReplayChunk, keys_, kReplayChunk, values_, V_, anchor_, V_, true);
    if (!shape_.normalise) return;
    for (int64_t c = 0; c < K_; ++c) {
      for (int64_t s = 0; s < kReplayChunk; ++s) z_[c] += keys_[c * kReplayChunk + s];
    }
  }

  const ReplayShape& shape_;
  const ReplayRows& rows_;
  const int64_t first_, count_, K_, V_, gates_;
  float *anchor_, *z_, *since_start_, *keys_, *values_;
  Scratch scratch_;
  const int64_t reads_;  // Rows that a token reads with: its query, for the delta rule its key.
  float* decays_;        // [count,gates]: e^g.
  float* asked_;         // [count,reads,K], decayed since the chunk's start.
  float* read_;          // [count,reads,V]: what the memory holds under them.
  float* pair_;          // [reads,K] of one token, as they are.
  float* weights_;       // [reads,kReplayChunk]
};

}  // namespace

ReplayLayout::ReplayLayout(const ReplayShape& shape) {
  const int64_t K = shape.key_size, V = shape.value_size;
  constexpr int64_t kLine = 16;  // Floats of a cache line.
  const auto whole = [](int64_t floats) { return (floats + kLine - 1) / kLine * kLine; };
  anchor = K * V + (shape.normalise ? K : 0);
  since_start = whole(anchor);
  keys = since_start + whole(shape.decay == Decay::kVector ? K : 1);
  values = keys + K * kReplayChunk;
  size = whole(values + kReplayChunk * V);
}

void Replay(const ReplayShape& shape, int64_t position, const ReplayRows& rows, float* state) {
  const ReplayLayout layout(shape);
  for (int64_t first = 0; first < rows.count;) {
    const int64_t before = (position + first) % kReplayChunk;
    const int64_t count = std::min(rows.count - first, kReplayChunk - before);
    ChunkRows(shape, layout, rows, first, count, state).Run(before);
    first += count;
  }
}

}  // namespace attnd::cpu
