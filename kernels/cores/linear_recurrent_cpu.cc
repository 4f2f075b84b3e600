#include <algorithm>
#include <cstring>

#include "kernels/core/interrupt.h"
#include "kernels/cores/linear_recurrent.h"
#include "kernels/cores/non_finite.h"
#include "kernels/primitives/cpu/gemm.h"
#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"

namespace attnd::cpu {
namespace {

// One head of one sequence, from its first token to its last.
class HeadWalk {
 public:
  HeadWalk(const LinearRecurrentCall& call, const Sequence& sequence, int64_t head)
      : call_(call),
        sequence_(sequence),
        head_(head),
        heads_(call.o.dim(2)),
        width_(call.q.dim(3)),
        K_(FeatureSize(call.key_map, width_)),
        V_(call.v.dim(3)),
        by_products_(call.query_map == FeatureMap::kTaylor && call.key_map == FeatureMap::kTaylor &&
                     call.decay == Decay::kNone),
        q_rows_(scratch_.Take<float>(kChunk * width_)),
        k_rows_(scratch_.Take<float>(kChunk * width_)),
        q_(K_ == width_ ? q_rows_ : scratch_.Take<float>(kChunk * K_)),
        k_(K_ == width_ ? k_rows_ : scratch_.Take<float>(kChunk * K_)),
        v_(scratch_.Take<float>(kChunk * V_)),
        y_(scratch_.Take<float>(kChunk * V_)),
        fade_(scratch_.Take<float>(call.value_decay.defined() ? kChunk * V_ : 0)),
        weights_(scratch_.Take<float>(kChunk * kChunk)),
        decayed_(scratch_.Take<float>(kChunk * K_)),
        transposed_(scratch_.Take<float>(kChunk * K_)),
        state_(scratch_.Take<float>(K_ * V_)),
        z_(scratch_.Take<float>(K_)),
        dots_(scratch_.Take<float>(kChunk)),
        decay_(call.decay, call.g, heads_, head, K_,
               scratch_.Take<float>(ChunkDecay::MemorySize(call.decay, K_))) {}

  void Run() {
    const int64_t slot = sequence_.state * heads_ + head_;
    LoadState(call_.initial_state, slot, K_ * V_, state_);
    if (normalises()) LoadState(call_.initial_z, slot, K_, z_);
    for (int64_t begin = 0; begin < sequence_.length; begin += kChunk) {
      Chunk(begin, std::min(kChunk, sequence_.length - begin));
    }
    std::memcpy(call_.final_state.data<float>() + slot * K_ * V_, state_, Bytes(K_ * V_));
    if (normalises()) std::memcpy(call_.final_z.data<float>() + slot * K_, z_, Bytes(K_));
  }

 private:
  static size_t Bytes(int64_t floats) { return static_cast<size_t>(floats) * sizeof(float); }

  static void LoadState(const Tensor& initial, int64_t slot, int64_t size, float* state) {
    if (initial.defined()) {
      std::memcpy(state, initial.data<float>() + slot * size, Bytes(size));
    } else {
      std::fill(state, state + size, 0.0f);
    }
  }

  bool normalises() const { return call_.final_z.defined(); }

  void LoadChunk(int64_t begin, int64_t count) {
    StopPoint();
    const int64_t token = sequence_.begin + begin;
    LoadHeadRows(call_.q, sequence_.row, token, count, head_, heads_, q_rows_);
    LoadHeadRows(call_.k, sequence_.row, token, count, head_, heads_, k_rows_);
    LoadHeadRows(call_.v, sequence_.row, token, count, head_, heads_, v_);
    if (call_.inner_scale != 1) {
      ScaleRow(q_rows_, static_cast<float>(call_.inner_scale), count * width_);
      ScaleRow(k_rows_, static_cast<float>(call_.inner_scale), count * width_);
    }
    ApplyRows(call_.query_map, q_rows_, count, width_, q_);
    ApplyRows(call_.key_map, k_rows_, count, width_, k_);
    if (call_.turn) {
      call_.turn(sequence_, begin, count, q_);
      call_.turn(sequence_, begin, count, k_);
    }
    ScaleRow(q_, static_cast<float>(call_.scale), count * K_);
    if (call_.value_weight.defined()) {
      const float* weight = call_.value_weight.data<float>() +
                            (sequence_.row * call_.q.dim(1) + token) * heads_ + head_;
      for (int64_t r = 0; r < count; ++r) ScaleRow(v_ + r * V_, weight[r * heads_], V_);
    }
    if (!fades()) odd_.TakeOut(v_, count, V_);
    if (call_.gate_of_keys) {
      call_.gate_of_keys(head_, count, k_, decay_.gates());
      decay_.Sum(count);
    } else {
      decay_.Load(sequence_.row, token, count);
    }
    if (fades()) {
      LoadHeadRows(call_.value_decay, sequence_.row, token, count, head_, heads_, fade_);
      ExpRow(fade_, count * V_);
    }
  }

  // scale phi(q_r)·phi(k_s) under the decay between the two, for s <= r.
  void Weigh(int64_t count) {
    if (!by_products_) return decay_.Products(q_, k_, weights_);
    Transpose(count, width_, k_rows_, width_, transposed_, kChunk);
    Gemm(count, count, width_, q_rows_, width_, transposed_, kChunk, weights_, kChunk, false);
    for (int64_t r = 0; r < count; ++r) {
      float* row = weights_ + r * kChunk;
      TaylorKernelRow(row, r + 1);
      ScaleRow(row, static_cast<float>(call_.scale), r + 1);
      std::fill(row + r + 1, row + count, 0.0f);
    }
  }

  void Chunk(int64_t begin, int64_t count) {
    LoadChunk(begin, count);
    Weigh(count);
    decay_.SinceStart(q_, decayed_);
    if (fades()) {
      Gemm(count, V_, K_, decayed_, K_, state_, V_, y_, V_, false);
      FadeIn(count);
    } else {
      Gemm(count, V_, count, weights_, kChunk, v_, V_, y_, V_, false);
      Gemm(count, V_, K_, decayed_, K_, state_, V_, y_, V_, true);
      odd_.AddToLaterRows(weights_, kChunk, count, y_);
    }
    if (normalises()) {
      for (int64_t r = 0; r < count; ++r) {
        dots_[r] = DotRow(decayed_ + r * K_, z_, K_) + SumRow(weights_ + r * kChunk, r + 1);
      }
    }
    if (call_.readout) {
      call_.readout({sequence_, head_, begin, count, V_, normalises() ? dots_ : nullptr, y_});
    }
    StoreHeadRows(y_, call_.o, sequence_.row, sequence_.begin + begin, count, head_);

    decay_.UntilEnd(k_, decayed_);
    decay_.DecayState(state_, V_);
    if (fades()) FadeOut(count);
    Transpose(count, K_, decayed_, K_, transposed_, kChunk);
    Gemm(K_, V_, count, transposed_, kChunk, v_, V_, state_, V_, true);
    odd_.AddToState(decayed_, K_, state_);
    if (normalises()) {
      decay_.DecayState(z_, 1);
      for (int64_t r = 0; r < count; ++r) AddRow(z_, decayed_ + r * K_, z_, K_);
    }
  }

  bool fades() const { return call_.value_decay.defined(); }

  // y_r holds what the state gives and becomes ((y_r f_0 + P_r0 v_0) f_1 + P_r1 v_1) ... up to
  // token r: the decays of value channels one after the other, so that none is ever undone.
  void FadeIn(int64_t count) {
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t s = 0; s <= r; ++s) {
        FadeAddRow(weights_[r * kChunk + s], v_ + s * V_, fade_ + s * V_, y_ + r * V_, V_);
      }
    }
  }

  // Values and state as they are at the chunk's end. Uses up fade_ and y_.
  void FadeOut(int64_t count) {
    float* left = y_;
    std::fill(left, left + V_, 1.0f);
    for (int64_t s = count - 1; s >= 0; --s) {
      MulRow(v_ + s * V_, left, v_ + s * V_, V_);
      MulRow(left, fade_ + s * V_, left, V_);
    }
    for (int64_t i = 0; i < K_; ++i) MulRow(state_ + i * V_, left, state_ + i * V_, V_);
  }

  const LinearRecurrentCall& call_;
  const Sequence& sequence_;
  const int64_t head_, heads_, width_, K_, V_;
  const bool by_products_;  // Features' products within a chunk follow from the rows' products.
  Scratch scratch_;
  float *q_rows_, *k_rows_;  // [count,width]: before the feature map.
  float *q_, *k_, *v_, *y_;
  float* fade_;        // [count,V]: e^gv.
  float* weights_;     // [count,kChunk]
  float* decayed_;     // [count,K]
  float* transposed_;  // [K,kChunk]
  float *state_, *z_, *dots_;
  NonFinite odd_;  // Of v_, unless values fade: there no product masks by zeros.
  ChunkDecay decay_;
};

}  // namespace

bool FitsRecurrentCore(int64_t key_size, int64_t value_size) {
  return key_size <= 1024 && value_size <= 1024;
}

std::function<void(const RecurrentReadout&)> NormalisedReadout(double eps) {
  return [eps = static_cast<float>(eps)](const RecurrentReadout& readout) {
    for (int64_t r = 0; r < readout.count; ++r) {
      ScaleRow(readout.y + r * readout.value_size, 1.0f / (readout.dots[r] + eps),
               readout.value_size);
    }
  };
}

LinearRecurrentCall RecurrentCallOf(const BoundCall& call, const NamedTensors& outputs) {
  LinearRecurrentCall core;
  core.q = call.input("q");
  core.k = call.input("k");
  core.v = call.input("v");
  core.o = *outputs.Find("o");
  core.sequences = call.sequences();
  core.scale = call.real("scale");
  core.initial_state = call.input("initial_state");
  core.final_state = *outputs.Find("final_state");
  return core;
}

absl::Status LinearRecurrent(const LinearRecurrentCall& call) {
  const int64_t heads = call.o.dim(2);
  const auto count = static_cast<int64_t>(call.sequences.size());
  const double work = 8.0 * static_cast<double>(call.o.num_elements()) *
                      static_cast<double>(FeatureSize(call.key_map, call.q.dim(3)) + kChunk);
  ParallelFor(count * heads, work, [&](int64_t task) {
    HeadWalk(call, call.sequences[static_cast<size_t>(task / heads)], task % heads).Run();
  });
  return absl::OkStatus();
}

}  // namespace attnd::cpu
