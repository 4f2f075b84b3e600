#include <algorithm>

#include "kernels/cores/linear_global.h"
#include "kernels/primitives/cpu/gemm.h"
#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"

namespace attnd::cpu {
namespace {

// Tokens of one product; keys of one partial sum. Partial sums keep long sums exact and all threads
// busy.
constexpr int64_t kTile = 128;
constexpr int64_t kSlice = 2048;

class GlobalSums {
 public:
  explicit GlobalSums(const LinearGlobalCall& call)
      : call_(call),
        batch_(call.q.dim(0)),
        queries_(call.q.dim(1)),
        keys_(call.k.dim(1)),
        heads_(call.o.dim(2)),
        state_heads_(std::max(call.k.dim(2), call.v.dim(2))),
        key_size_(FeatureSize(call.feature_map, call.k.dim(3))),
        value_size_(call.v.dim(3)),
        slices_(std::max<int64_t>(1, (keys_ + kSlice - 1) / kSlice)),
        sums_size_(key_size_ * value_size_ + key_size_ + value_size_ + 1) {}

  absl::Status Run(Backend& backend) {
    const int64_t states = batch_ * state_heads_;
    absl::StatusOr<Tensor> sums =
        backend.Allocate(DType::kFloat32, {std::max<int64_t>(1, states * slices_), sums_size_});
    if (!sums.ok()) return sums.status();
    sums_ = sums->data<float>();
    const double per_token = 2.0 * static_cast<double>(key_size_ * value_size_);
    ParallelFor(states * slices_, per_token * static_cast<double>(states * keys_),
                [this](int64_t i) { SumSlice(i / slices_, i % slices_); });
    ParallelFor(states, static_cast<double>(states * slices_ * sums_size_),
                [this](int64_t i) { JoinSlices(i); });
    const int64_t tiles = (queries_ + kTile - 1) / kTile;
    ParallelFor(batch_ * heads_ * tiles,
                per_token * static_cast<double>(batch_ * heads_ * queries_),
                [this, tiles](int64_t i) {
                  const int64_t head = i / tiles;
                  Read(head / heads_, head % heads_, i % tiles * kTile);
                });
    return absl::OkStatus();
  }

 private:
  // Of one slice, one after the other: M [K,V], z [K], the sum of v [V], the number of keys.
  float* Sums(int64_t state, int64_t slice) const {
    return sums_ + (state * slices_ + slice) * sums_size_;
  }
  float* KeySum(float* sums) const { return sums + key_size_ * value_size_; }
  float* ValueSum(float* sums) const { return KeySum(sums) + key_size_; }
  float* Count(float* sums) const { return ValueSum(sums) + value_size_; }

  // Tokens [begin, begin + count) of one head of x [B,T,heads,width] as float32 rows.
  static void LoadTokens(const Tensor& x, int64_t row, int64_t head, int64_t begin, int64_t count,
                         float* out) {
    const int64_t width = x.dim(3);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at = ((row * x.dim(1) + begin + i) * x.dim(2) + head) * width;
      LoadRow(x.data<char>() + at * static_cast<int64_t>(SizeOf(x.dtype())), x.dtype(),
              out + i * width, width);
    }
  }

  // The same of q or k, as features.
  void LoadFeatures(const Tensor& x, int64_t row, int64_t head, int64_t begin, int64_t count,
                    float* features) const {
    const int64_t width = x.dim(3);
    Scratch scratch;
    float* rows = width == key_size_ ? features : scratch.Take<float>(count * width);
    LoadTokens(x, row, head, begin, count, rows);
    if (call_.inner_scale != 1) {
      ScaleRow(rows, static_cast<float>(call_.inner_scale), count * width);
    }
    ApplyRows(call_.feature_map, rows, count, width, features);
  }

  void SumSlice(int64_t state, int64_t slice) const {
    const int64_t row = state / state_heads_;
    const int64_t head = state % state_heads_;
    float* sums = Sums(state, slice);
    std::fill(sums, sums + sums_size_, 0.0f);
    Scratch scratch;
    float* k = scratch.Take<float>(kTile * key_size_);
    float* k_transposed = scratch.Take<float>(kTile * key_size_);
    float* v = scratch.Take<float>(kTile * value_size_);
    const int64_t end = std::min(keys_, (slice + 1) * kSlice);
    for (int64_t begin = slice * kSlice; begin < end; begin += kTile) {
      const int64_t count = std::min(kTile, end - begin);
      LoadFeatures(call_.k, row, head / (state_heads_ / call_.k.dim(2)), begin, count, k);
      LoadTokens(call_.v, row, head / (state_heads_ / call_.v.dim(2)), begin, count, v);
      const float* weight = call_.key_weight.defined()
                                ? call_.key_weight.data<float>() + state * keys_ + begin
                                : nullptr;
      const bool* mask =
          call_.key_mask.defined() ? call_.key_mask.data<bool>() + row * keys_ + begin : nullptr;
      for (int64_t i = 0; i < count; ++i) {
        float* key = k + i * key_size_;
        float* value = v + i * value_size_;
        if (mask != nullptr &&
            !mask[i]) {  // Whatever a hidden token holds, NaN too, leaves no trace.
          std::fill(key, key + key_size_, 0.0f);
          std::fill(value, value + value_size_, 0.0f);
          continue;
        }
        if (weight != nullptr) ScaleRow(key, weight[i], key_size_);
        AddRow(KeySum(sums), key, KeySum(sums), key_size_);
        AddRow(ValueSum(sums), value, ValueSum(sums), value_size_);
        *Count(sums) += 1;
      }
      if (call_.turn) call_.turn(begin, count, k);
      Transpose(count, key_size_, k, key_size_, k_transposed, count);
      Gemm(key_size_, value_size_, count, k_transposed, count, v, value_size_, sums, value_size_,
           true);
    }
  }

  // Adds the slices up in order; the first then holds the sums, with the mean of v in place of its
  // sum.
  void JoinSlices(int64_t state) const {
    float* sums = Sums(state, 0);
    for (int64_t slice = 1; slice < slices_; ++slice) {
      AddRow(sums, Sums(state, slice), sums, sums_size_);
    }
    if (*Count(sums) > 0) ScaleRow(ValueSum(sums), 1.0f / *Count(sums), value_size_);
  }

  void Read(int64_t row, int64_t head, int64_t begin) const {
    const int64_t count = std::min(kTile, queries_ - begin);
    float* sums = Sums(row * state_heads_ + head / (heads_ / state_heads_), 0);
    Scratch scratch;
    float* phi = scratch.Take<float>(count * key_size_);
    float* y = scratch.Take<float>(count * value_size_);
    LoadFeatures(call_.q, row, head / (heads_ / call_.q.dim(2)), begin, count, phi);
    const float* turned = phi;
    if (call_.turn) {
      float* copy = scratch.Take<float>(count * key_size_);
      std::copy(phi, phi + count * key_size_, copy);
      call_.turn(begin, count, copy);
      turned = copy;
    }
    Gemm(count, value_size_, key_size_, turned, key_size_, sums, value_size_, y, value_size_,
         false);
    if (call_.readout) {
      call_.readout(LinearReadout{.row = row,
                                  .head = head,
                                  .begin = begin,
                                  .count = count,
                                  .key_size = key_size_,
                                  .value_size = value_size_,
                                  .phi = phi,
                                  .key_sum = KeySum(sums),
                                  .value_mean = ValueSum(sums),
                                  .y = y});
    }
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at = ((row * queries_ + begin + i) * heads_ + head) * value_size_;
      StoreRow(y + i * value_size_, call_.o.dtype(),
               call_.o.data<char>() + at * static_cast<int64_t>(SizeOf(call_.o.dtype())),
               value_size_);
    }
  }

  const LinearGlobalCall& call_;
  const int64_t batch_;
  const int64_t queries_;
  const int64_t keys_;
  const int64_t heads_;
  const int64_t state_heads_;
  const int64_t key_size_;
  const int64_t value_size_;
  const int64_t slices_;
  const int64_t sums_size_;
  float* sums_ = nullptr;
};

}  // namespace

bool HeadsNest(int64_t key_heads, int64_t value_heads) {
  return std::max(key_heads, value_heads) % std::min(key_heads, value_heads) == 0;
}

absl::Status LinearGlobal(Backend& backend, const LinearGlobalCall& call) {
  return GlobalSums(call).Run(backend);
}

}  // namespace attnd::cpu
