// The walk: a head's chunks in order, outputs and state in one pass over q, k and v.
//
// Everything is transposed, so that the state stays in registers. For a chunk, a warpgroup queues
//   P = Q K^T                       its half of the columns, [64 tokens, 32 or 64]
//   O^T = S^T Q^T                   left factor from its registers, [64 values, 64 tokens]
//   P -> masked, decayed, shared memory; O^T scaled by the decay since the chunk's start
//   O^T += V^T P^T,  S^T = e^G_end S^T + (V e^(G_end - G))^T K
// float16 scales P by powers of two per token and the copy of S per channel, so that neither its
// range nor its subnormals are met whatever the size of the inputs; bfloat16 has float32's range.
#ifndef ATTND_KERNELS_CORES_RECURRENT_SM90_WALKER_CUH_
#define ATTND_KERNELS_CORES_RECURRENT_SM90_WALKER_CUH_

#include "kernels/cores/recurrent_sm90_non_finite.cuh"
#include "kernels/cores/recurrent_sm90_stage.cuh"
#include "kernels/cuda/hopper/dependent_launch.cuh"

namespace attnd::cuda {

// A warpgroup's part of the walk.
template <typename T, int K, int kSlice, bool kDecay>
class Walker {
 public:
  using Memory = WalkMemory<K, kSlice>;
  static constexpr int kWarpgroups = kSlice / 64;
  static constexpr int kColumns = kSm90Chunk / kWarpgroups;  // Of P.
  static constexpr bool kScales = std::is_same_v<T, __half>;

  __device__ Walker(const Sm90Maps& maps, const Sm90Params& p, const Sm90Span& span, int head,
                    int slice, Memory& memory)
      : maps_(maps),
        p_(p),
        span_(span),
        head_(head),
        slice_(slice),
        memory_(memory),
        warpgroup_(static_cast<int>(threadIdx.x) / hopper::kWarpgroup - 1),
        thread_(static_cast<int>(threadIdx.x) % hopper::kWarpgroup),
        chunks_((span.tokens + kSm90Chunk - 1) / kSm90Chunk) {}

  __device__ void Run() {
    LoadStart();
    hopper::RingPosition<Memory::kStages> at;
    bool weighed = false;
    int until_boundary = span_.unit;
    for (int c = 0; c < chunks_; ++c) {
      if (until_boundary == 0) {
        EndUnit();
        until_boundary = span_.unit;
      }
      --until_boundary;
      hopper::RingPosition<Memory::kStages> next = at;
      next.Advance();
      weighed = Step(at, next, c, weighed);
      memory_.empty[at.stage()].Arrive();
      at = next;
    }
    EndUnit();
    if (span_.last) StoreFinal();
    if (thread_ == 0) hopper::WaitForStores();
  }

 private:
  __device__ int64_t StateOffset() const {
    return (int64_t{span_.state} * p_.heads + head_) * K * p_.V + slice_ * kSlice +
           warpgroup_ * kSm90Values;
  }

  // The state before the span: read, or worked out from the sums of the units before it.
  __device__ void LoadStart() {
#pragma unroll
    for (int i = 0; i < K / 2; ++i) sum_[i] = 0;
#pragma unroll
    for (int i = 0; i < K / 2; ++i) start_[i] = 0;
    const auto unit = [&](float* units, int slot) {
      return UnitState<K>(p_, units, slot, head_, slice_, warpgroup_, thread_);
    };
    if (!span_.first && p_.chains_apart) {
      hopper::AwaitPreviousKernel();
      unit(p_.unit_states, span_.slot).Load(start_);
      return;
    }
    if (p_.initial_state != nullptr) {
      const float* from = p_.initial_state + StateOffset();
      ForState<K>(thread_, [&](int i, int k, int v) { start_[i] = from[int64_t{k} * p_.V + v]; });
    }
    if (span_.first) return;
    hopper::AwaitPreviousKernel();
    for (int slot = span_.chain; slot < span_.slot; ++slot) {
      unit(p_.unit_sums, slot).Load(sum_);
      decay_ = __ldcg(p_.unit_decays + slot * p_.heads + head_);
      EndUnit();
    }
  }

  // The next unit starts from the state after this one.
  __device__ void EndUnit() {
#pragma unroll
    for (int i = 0; i < K / 2; ++i) {
      start_[i] = fmaf(decay_, start_[i], sum_[i]);
      sum_[i] = 0;
    }
    decay_ = 1;
  }

  __device__ void StoreFinal() {
    float* to = p_.final_state + StateOffset();
    ForState<K>(thread_, [&](int i, int k, int v) { to[int64_t{k} * p_.V + v] = start_[i]; });
  }

  // What follows from the thread's number is worked out anew from here on: kept in registers from
  // chunk to chunk, it would push others out of them.
  __device__ void ForgetAddresses() { asm volatile("" : "+r"(thread_)); }

  __device__ void SyncAll() { hopper::SyncThreads<hopper::kWarpgroup * kWarpgroups>(1); }
  __device__ void SyncWarpgroup() { hopper::SyncThreads<hopper::kWarpgroup>(2 + warpgroup_); }

  // Until a chunk's tiles and gates are there.
  __device__ void Await(const hopper::RingPosition<Memory::kStages>& at, int c) {
    memory_.full[at.stage()].Wait(at.phase());
    const int count = Count(c);
    if (count == kSm90Chunk) return;
    memory_.stages[at.stage()].ClearBeyond(count, thread_ + warpgroup_ * hopper::kWarpgroup);
    hopper::FenceTiles();
    SyncAll();
  }

  __device__ int Count(int c) const { return min(kSm90Chunk, span_.tokens - c * kSm90Chunk); }

  // Sixteen channels of rows of K.
  __device__ static uint64_t Channels(uint32_t tiles, int step) {
    return hopper::Operand<hopper::Along::kSummed>(tiles + step / 4 * kSm90TileBytes +
                                                   step % 4 * 32);
  }

  // P = Q K^T, this warpgroup's columns.
  __device__ void QueueWeights(const WalkStage<K, kSlice>& stage, float (&p)[kColumns / 2]) {
    const uint32_t queries = hopper::SharedAddress(stage.queries);
    const uint32_t keys =
        hopper::SharedAddress(stage.keys) + warpgroup_ * kColumns * hopper::kTileRowBytes;
    hopper::FenceRegisters();
#pragma unroll
    for (int step = 0; step < K / 16; ++step) {
      hopper::Multiply<T, hopper::Along::kSummed, hopper::Along::kSummed>(
          p, Channels(queries, step), Channels(keys, step), step > 0);
    }
    hopper::CommitProducts();
  }

  // Before the barrier of chunk c.
  __device__ void NoteNonFinite(const WalkStage<K, kSlice>& stage, int c) {
    if (HasNonFinite<T>(stage.values[warpgroup_], thread_)) {
      memory_.non_finite[c % 2][warpgroup_] = c + 1;
    }
  }

  // Chunk c. `weighed`: its weights are in place; otherwise they are made first. Makes the next
  // chunk's while the tensor cores are busy with this one's, if it is there by then; returns
  // whether.
  __device__ bool Step(const hopper::RingPosition<Memory::kStages>& at,
                       const hopper::RingPosition<Memory::kStages>& next, int c, bool weighed) {
    ForgetAddresses();
    using hopper::Along;
    auto& stage = memory_.stages[at.stage()];
    const Sm90Gates& gates = memory_.gates[at.stage()];
    const uint32_t queries = hopper::SharedAddress(stage.queries);
    const uint32_t keys = hopper::SharedAddress(stage.keys);
    const uint32_t values = hopper::SharedAddress(stage.values[warpgroup_]);
    const uint32_t weights = hopper::SharedAddress(memory_.weights[c % 2]);

    if (!weighed) {
      Await(at, c);
      float p[kColumns / 2];
      QueueWeights(stage, p);
      NoteNonFinite(stage, c);
      hopper::WaitForProducts<0>();
      hopper::Settle(p);
      StoreWeights(c, gates, p);
    }
    float o[kSm90Chunk / 2];
    float undo[2] = {1, 1};  // Of the copy's scale, for the thread's two channels.
    uint32_t state[K / 16][4];
    CopyState(state, undo);
    hopper::FenceRegisters();
#pragma unroll
    for (int step = 0; step < K / 16; ++step) {
      hopper::Multiply<T, Along::kSummed>(o, state[step], Channels(queries, step), step > 0);
    }
    hopper::CommitProducts();
    if (thread_ == 0) {
      hopper::WaitForStoreReads();
      if (warpgroup_ == 0) {
        memory_.next_is_there[c % 2] = c + 1 < chunks_ && Count(c + 1) == kSm90Chunk &&
                                       memory_.full[next.stage()].HasEnded(next.phase());
      }
    }
    hopper::FenceTiles();
    SyncAll();
    const bool early = memory_.next_is_there[c % 2];
    const bool all_finite = memory_.non_finite[c % 2][warpgroup_] != c + 1;
    hopper::WaitForProducts<0>();
    hopper::Settle(o);
    ScaleOutputs(c, gates, undo, o);
    if (!all_finite) {
      ForgetAddresses();
      TakeOutNonFinite<T>(thread_, stage.values[warpgroup_], memory_.weights[c % 2],
                          memory_.taken[warpgroup_], o);
      hopper::FenceTiles();
      SyncWarpgroup();
    }
    hopper::FenceRegisters();
#pragma unroll
    for (int step = 0; step < kSm90Chunk / 16; ++step) {
      hopper::Multiply<T, Along::kOther, Along::kSummed>(
          o,
          hopper::Operand<Along::kOther>(values + step * 16 * hopper::kTileRowBytes,
                                         kSm90TileBytes),
          Channels(weights, step), true);
    }
    hopper::CommitProducts();
    if (early) {
      Await(next, c + 1);
      float p[kColumns / 2];
      QueueWeights(memory_.stages[next.stage()], p);
      AddChunk<T, K, kDecay>(thread_, keys, values, gates, sum_);
      hopper::WaitForProducts<2>();
      hopper::Settle(o);
      StoreOutputs(c, o);
      NoteNonFinite(memory_.stages[next.stage()], c + 1);
      hopper::WaitForProducts<1>();
      hopper::Settle(p);
      StoreWeights(c + 1, memory_.gates[next.stage()], p);
    } else {
      AddChunk<T, K, kDecay>(thread_, keys, values, gates, sum_);
      hopper::WaitForProducts<1>();
      hopper::Settle(o);
      StoreOutputs(c, o);
    }
    if constexpr (kDecay) decay_ *= gates.end;
    hopper::WaitForProducts<0>();
    hopper::Settle(sum_);
    if (!all_finite) {
      ForgetAddresses();
      AddTakenToState<T, K, kDecay>(thread_, stage.keys[0], memory_.taken[warpgroup_], gates, sum_);
    }
    return early;
  }

  // The state as left factors.
  __device__ void CopyState(uint32_t (&state)[K / 16][4], float (&undo)[2]) {
    float factors[2] = {1, 1};
    if constexpr (kScales) {
      float most[2] = {0, 0};
#pragma unroll
      for (int i = 0; i < K / 2; ++i) {
        most[i % 4 / 2] = fmaxf(most[i % 4 / 2], fabsf(fmaf(decay_, start_[i], sum_[i])));
      }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const PowerOfTwo power(MaxOfRow(most[i]));
        factors[i] = power.factor;
        undo[i] = power.inverse;
      }
    }
#pragma unroll
    for (int i = 0; i < K / 2; i += 2) {
      float first = fmaf(decay_, start_[i], sum_[i]);
      float second = fmaf(decay_, start_[i + 1], sum_[i + 1]);
      if constexpr (kScales) {
        first *= factors[i % 4 / 2];
        second *= factors[i % 4 / 2];
      }
      state[i / 8][i % 8 / 2] = PackPair<T>(first, second);
    }
  }

  // Rows of P that the thread holds.
  __device__ int Token(int half) const { return thread_ / 32 * 16 + thread_ % 32 / 4 + half * 8; }
  // Columns of O^T, in pairs.
  __device__ int Pair(int j) const { return 8 * j + thread_ % 4 * 2; }

  // P e^(G_t - G_s) scale where s <= t, and zero elsewhere.
  __device__ void Weigh(const Sm90Gates& gates, float (&p)[kColumns / 2]) {
    float2 sums[2];
    int restart[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if constexpr (kDecay) {
        sums[half] = gates.sums[Token(half)];
        restart[half] = gates.restart[Token(half)];
      }
    }
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      const int s = warpgroup_ * kColumns + Pair(j);
      float4 column;
      if constexpr (kDecay) column = *reinterpret_cast<const float4*>(&gates.sums[s]);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& weight = p[4 * j + 2 * half + i];
          bool counts = s + i <= Token(half);
          if constexpr (kDecay) {
            const float high = i == 0 ? column.x : column.z, low = i == 0 ? column.y : column.w;
            weight *= Exp2((sums[half].x - high) + (sums[half].y - low));
            counts = counts && s + i >= restart[half];
          }
          weight = counts ? weight * p_.scale : 0.0f;
        }
      }
    }
  }

  // Of chunk c.
  __device__ void StoreWeights(int c, const Sm90Gates& gates, float (&p)[kColumns / 2]) {
    ForgetAddresses();
    Weigh(gates, p);
    const uint32_t weights = hopper::SharedAddress(memory_.weights[c % 2]);
    if constexpr (kScales) {
      float* most = memory_.most[c % 3][0];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float mine = 0;
#pragma unroll
        for (int i = 0; i < kColumns / 4; ++i) {
          mine = fmaxf(mine, fabsf(p[i / 2 * 4 + half * 2 + i % 2]));
        }
        mine = MaxOfRow(mine);
        if (thread_ % 4 == 0) most[warpgroup_ * kSm90Chunk + Token(half)] = mine;
      }
      SyncAll();
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float factor = PowerOfTwo(MostOf(c, Token(half))).factor;
#pragma unroll
        for (int i = 0; i < kColumns / 4; ++i) p[i / 2 * 4 + half * 2 + i % 2] *= factor;
      }
    }
    const int row = thread_ / 32 * 16 + thread_ % 16;
#pragma unroll
    for (int j = 0; j < kColumns / 8; j += 2) {
      const uint32_t pairs[4] = {
          PackPair<T>(p[4 * j], p[4 * j + 1]), PackPair<T>(p[4 * j + 2], p[4 * j + 3]),
          PackPair<T>(p[4 * j + 4], p[4 * j + 5]), PackPair<T>(p[4 * j + 6], p[4 * j + 7])};
      const int piece = warpgroup_ * kColumns / 8 + j + thread_ % 32 / 16;
      hopper::StoreMatrices(weights + hopper::Swizzled(row, piece), pairs);
    }
  }

  // float16: the largest weight of a token of chunk c, once both halves are known.
  __device__ float MostOf(int c, int token) const {
    float most = memory_.most[c % 3][0][token];
    if constexpr (kWarpgroups == 2) most = fmaxf(most, memory_.most[c % 3][1][token]);
    return most;
  }

  // The queries' decay since the chunk's start and the scale; float16: from the copy's scale to
  // that of the weights.
  __device__ void ScaleOutputs(int c, const Sm90Gates& gates, const float (&undo)[2],
                               float (&o)[kSm90Chunk / 2]) {
#pragma unroll
    for (int j = 0; j < kSm90Chunk / 8; ++j) {
      float2 since = make_float2(p_.scale, p_.scale);
      if constexpr (kDecay) since = *reinterpret_cast<const float2*>(&gates.since[Pair(j)]);
      if constexpr (kScales) {
        since.x *= PowerOfTwo(MostOf(c, Pair(j))).factor;
        since.y *= PowerOfTwo(MostOf(c, Pair(j) + 1)).factor;
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float2 factor = since;
        if constexpr (kScales) factor.x *= undo[half], factor.y *= undo[half];
        o[4 * j + 2 * half] *= factor.x;
        o[4 * j + 2 * half + 1] *= factor.y;
      }
    }
  }

  __device__ void StoreOutputs(int c, float (&o)[kSm90Chunk / 2]) {
    if constexpr (kScales) {
#pragma unroll
      for (int j = 0; j < kSm90Chunk / 8; ++j) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float inverse = PowerOfTwo(MostOf(c, Pair(j) + i)).inverse;
          o[4 * j + i] *= inverse;
          o[4 * j + 2 + i] *= inverse;
        }
      }
    }
    unsigned char* tile = memory_.outputs[warpgroup_];
    const uint32_t address = hopper::SharedAddress(tile);
    const int lane = thread_ % 32;
#pragma unroll
    for (int j = 0; j < kSm90Chunk / 8; j += 2) {
      const uint32_t pairs[4] = {
          PackPair<T>(o[4 * j], o[4 * j + 1]), PackPair<T>(o[4 * j + 2], o[4 * j + 3]),
          PackPair<T>(o[4 * j + 4], o[4 * j + 5]), PackPair<T>(o[4 * j + 6], o[4 * j + 7])};
      const int token = 8 * (j + lane / 16) + lane % 8;
      hopper::StoreTransposed(address + hopper::Swizzled(token, thread_ / 32 * 2 + lane / 8 % 2),
                              pairs);
    }
    hopper::FenceTiles();
    SyncWarpgroup();
    const int channel = slice_ * kSlice + warpgroup_ * kSm90Values;
    const int token = span_.begin + c * kSm90Chunk, count = Count(c);
    if (count == kSm90Chunk) {
      if (thread_ == 0) hopper::StoreTile(maps_.o, {channel, head_, token, span_.row}, tile);
      return;
    }
    // The tokens past the end belong to others.
    T* to = static_cast<T*>(p_.o) + ((span_.row * p_.tokens + token) * p_.heads + head_) * p_.V +
            channel;
    for (int i = thread_; i < count * 8; i += hopper::kWarpgroup) {
      const int row = i / 8, piece = i % 8;
      *reinterpret_cast<uint4*>(to + int64_t{row} * p_.heads * p_.V + piece * 8) =
          *reinterpret_cast<const uint4*>(tile + hopper::Swizzled(row, piece));
    }
  }

  const Sm90Maps& maps_;
  const Sm90Params& p_;
  const Sm90Span& span_;
  const int head_, slice_;
  Memory& memory_;
  const int warpgroup_;
  int thread_;
  const int chunks_;
  // The state is e^decay start + sum: the state before the unit, and what the unit has added.
  float start_[K / 2];
  float sum_[K / 2];
  float decay_ = 1;
};

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CORES_RECURRENT_SM90_WALKER_CUH_
