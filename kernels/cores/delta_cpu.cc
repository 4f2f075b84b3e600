#include <algorithm>

#include "kernels/core/interrupt.h"
#include "kernels/cores/delta.h"
#include "kernels/cores/non_finite.h"
#include "kernels/primitives/cpu/gemm.h"
#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"

namespace attnd::cpu {
namespace {

// x = (I + strict_lower(a))^-1 x for rows x [n,width], in place: rows in order, sixteen at a time,
// so that most of the work is a product with rows that are done.
void SolveUnitLowerRows(const float* a, int64_t n, float* x, int64_t width) {
  Scratch scratch;
  float* done = scratch.Take<float>(kSubChunk * width);
  for (int64_t first = 0; first < n; first += kSubChunk) {
    const int64_t rows = std::min(kSubChunk, n - first);
    if (first > 0) {
      Gemm(rows, width, first, a + first * kChunk, kChunk, x, width, done, width, false);
      AxpyRow(-1.0f, done, x + first * width, rows * width);
    }
    for (int64_t r = first + 1; r < first + rows; ++r) {
      for (int64_t s = first; s < r; ++s) {
        AxpyRow(-a[r * kChunk + s], x + s * width, x + r * width, width);
      }
    }
  }
}

// One head of one sequence, from its first token to its last.
class HeadWalk {
 public:
  HeadWalk(const DeltaCall& call, const Sequence& sequence, int64_t head)
      : call_(call),
        sequence_(sequence),
        head_(head),
        heads_(call.o.dim(2)),
        K_(call.q.dim(3)),
        V_(call.v.dim(3)),
        q_(scratch_.Take<float>(kChunk * K_)),
        k_(scratch_.Take<float>(kChunk * K_)),
        u_(scratch_.Take<float>(kChunk * V_)),
        y_(scratch_.Take<float>(kChunk * V_)),
        beta_(scratch_.Take<float>(kChunk)),
        weights_(scratch_.Take<float>(kChunk * kChunk)),
        decayed_(scratch_.Take<float>(kChunk * K_)),
        transposed_(scratch_.Take<float>(kChunk * K_)),
        state_(scratch_.Take<float>(K_ * V_)),
        decay_(call.decay, call.g, heads_, head, K_,
               scratch_.Take<float>(ChunkDecay::MemorySize(call.decay, K_))) {}

  void Run() {
    const int64_t size = K_ * V_;
    const int64_t slot = (sequence_.state * heads_ + head_) * size;
    if (call_.initial_state.defined()) {
      std::copy_n(call_.initial_state.data<float>() + slot, size, state_);
    } else {
      std::fill(state_, state_ + size, 0.0f);
    }
    for (int64_t begin = 0; begin < sequence_.length; begin += kChunk) {
      Chunk(begin, std::min(kChunk, sequence_.length - begin));
    }
    std::copy_n(state_, size, call_.final_state.data<float>() + slot);
  }

 private:
  void LoadChunk(int64_t token, int64_t count) {
    StopPoint();
    LoadHeadRows(call_.q, sequence_.row, token, count, head_, heads_, q_);
    LoadHeadRows(call_.k, sequence_.row, token, count, head_, heads_, k_);
    LoadHeadRows(call_.v, sequence_.row, token, count, head_, heads_, u_);
    ScaleRow(q_, static_cast<float>(call_.scale), count * K_);
    std::fill(beta_, beta_ + count, 1.0f);
    if (call_.beta.defined()) {
      const int64_t own = call_.beta.dim(2);
      const float* at = call_.beta.data<float>() +
                        (sequence_.row * call_.beta.dim(1) + token) * own + head_ / (heads_ / own);
      for (int64_t r = 0; r < count; ++r) beta_[r] = at[r * own];
    }
    decay_.Load(sequence_.row, token, count);
  }

  // u_ holds v and becomes the corrections u.
  void Correct(int64_t count) {
    decay_.SinceStart(k_, decayed_);
    Gemm(count, V_, K_, decayed_, K_, state_, V_, y_, V_, false);
    for (int64_t r = 0; r < count; ++r) {
      float* u = u_ + r * V_;
      AxpyRow(-1.0f, y_ + r * V_, u, V_);
      ScaleRow(u, beta_[r], V_);
    }
    decay_.Products(k_, k_, weights_);
    for (int64_t r = 1; r < count; ++r) ScaleRow(weights_ + r * kChunk, beta_[r], r);
    SolveUnitLowerRows(weights_, count, u_, V_);
    odd_.TakeOut(u_, count, V_);
  }

  void Chunk(int64_t begin, int64_t count) {
    const int64_t token = sequence_.begin + begin;
    LoadChunk(token, count);
    Correct(count);

    decay_.SinceStart(q_, decayed_);
    Gemm(count, V_, K_, decayed_, K_, state_, V_, y_, V_, false);
    decay_.Products(q_, k_, weights_);
    Gemm(count, V_, count, weights_, kChunk, u_, V_, y_, V_, true);
    odd_.AddToLaterRows(weights_, kChunk, count, y_);
    StoreHeadRows(y_, call_.o, sequence_.row, token, count, head_);

    decay_.UntilEnd(k_, decayed_);
    decay_.DecayState(state_, V_);
    Transpose(count, K_, decayed_, K_, transposed_, kChunk);
    Gemm(K_, V_, count, transposed_, kChunk, u_, V_, state_, V_, true);
    odd_.AddToState(decayed_, K_, state_);
  }

  const DeltaCall& call_;
  const Sequence& sequence_;
  const int64_t head_, heads_, K_, V_;
  Scratch scratch_;
  float *q_, *k_, *u_, *y_, *beta_;
  float* weights_;     // [count,kChunk]
  float* decayed_;     // [count,K]
  float* transposed_;  // [K,kChunk]
  float* state_;
  NonFinite odd_;  // Of u_.
  ChunkDecay decay_;
};

}  // namespace

absl::Status DeltaRule(const DeltaCall& call) {
  const int64_t heads = call.o.dim(2);
  const auto count = static_cast<int64_t>(call.sequences.size());
  const double work = 12.0 * static_cast<double>(call.o.num_elements()) *
                      static_cast<double>(call.q.dim(3) + kChunk);
  ParallelFor(count * heads, work, [&](int64_t task) {
    HeadWalk(call, call.sequences[static_cast<size_t>(task / heads)], task % heads).Run();
  });
  return absl::OkStatus();
}

}  // namespace attnd::cpu
