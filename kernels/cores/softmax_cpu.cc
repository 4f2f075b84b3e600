#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cores/non_finite.h"
#include "kernels/cores/softmax.h"
#include "kernels/primitives/cpu/gemm.h"
#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"

namespace attnd::cpu {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Keys are kept in blocks of this many: k transposed [K,kBlock], v as rows [kBlock,V], both
// float32. At K = 64 a block of either fills the first-level cache once, whose eight ways hold
// columns of it at this stride without evicting each other; at 256 the products run a fifth slower.
constexpr int64_t kBlock = 128;

// Runs of fewer keys than this are gathered into one product instead of having one each.
constexpr int64_t kShortRun = 64;

// All keys and values of a call as blocks, indexed by (sequence, block, head).
class PackedKeys {
 public:
  PackedKeys(const SoftmaxCall& call, int64_t blocks)
      : key_heads_(call.k.dim(2)),
        value_heads_(call.v.dim(2)),
        key_size_(call.k.dim(3)),
        value_size_(call.v.dim(3)),
        blocks_(blocks) {
    first_block_.reserve(call.keys.size() + 1);
    int64_t first = 0;
    for (const Sequence& keys : call.keys) {
      first_block_.push_back(first);
      first += (keys.length + kBlock - 1) / kBlock;
    }
    first_block_.push_back(first);
  }

  static int64_t CountBlocks(const SoftmaxCall& call) {
    int64_t blocks = 0;
    for (const Sequence& keys : call.keys) blocks += (keys.length + kBlock - 1) / kBlock;
    return blocks;
  }

  absl::Status Fill(Backend& backend, const SoftmaxCall& call) {
    absl::StatusOr<Tensor> keys = backend.Allocate(
        DType::kFloat32, {std::max<int64_t>(1, blocks_), key_heads_, key_size_, kBlock});
    if (!keys.ok()) return keys.status();
    absl::StatusOr<Tensor> values = backend.Allocate(
        DType::kFloat32, {std::max<int64_t>(1, blocks_), value_heads_, kBlock, value_size_});
    if (!values.ok()) return values.status();
    keys_ = *std::move(keys);
    values_ = *std::move(values);
    finite_.resize(static_cast<size_t>(blocks_ * value_heads_));
    const double work = 4.0 * static_cast<double>(blocks_ * kBlock) *
                        static_cast<double>(key_heads_ * key_size_ + value_heads_ * value_size_);
    ParallelFor(blocks_, work, [&](int64_t index) {
      const auto after = std::upper_bound(first_block_.begin(), first_block_.end(), index);
      const auto sequence = static_cast<size_t>(after - first_block_.begin()) - 1;
      FillBlock(call, sequence, index - first_block_[sequence]);
    });
    return absl::OkStatus();
  }

  // [K,kBlock] and [kBlock,V] of one block.
  const float* Keys(int64_t sequence, int64_t block, int64_t head) const {
    return keys_.data<float>() +
           ((first_block_[static_cast<size_t>(sequence)] + block) * key_heads_ + head) * key_size_ *
               kBlock;
  }
  const float* Values(int64_t sequence, int64_t block, int64_t head) const {
    return values_.data<float>() +
           static_cast<int64_t>(ValueBlock(sequence, block, head)) * kBlock * value_size_;
  }

  // Whether every value of the block is finite.
  bool Finite(int64_t sequence, int64_t block, int64_t head) const {
    return finite_[ValueBlock(sequence, block, head)] != 0;
  }

 private:
  size_t ValueBlock(int64_t sequence, int64_t block, int64_t head) const {
    return static_cast<size_t>(
        (first_block_[static_cast<size_t>(sequence)] + block) * value_heads_ + head);
  }

  void FillBlock(const SoftmaxCall& call, size_t sequence, int64_t block) {
    const Sequence& keys = call.keys[sequence];
    const int64_t begin = block * kBlock;
    const int64_t count = std::min(kBlock, keys.length - begin);
    const auto token = [&](int64_t i) {
      const int64_t at =
          call.key_order.empty() ? begin + i : call.key_order[static_cast<size_t>(begin + i)];
      return keys.row * call.k.dim(1) + keys.begin + at;
    };
    const auto row = [](const Tensor& x, int64_t token, int64_t head) {
      return static_cast<const char*>(x.raw()) +
             (token * x.dim(2) + head) * x.dim(3) * static_cast<int64_t>(SizeOf(x.dtype()));
    };
    Scratch scratch;
    float* rows = scratch.Take<float>(kBlock * key_size_);
    const auto where = static_cast<int64_t>(sequence);
    for (int64_t head = 0; head < key_heads_; ++head) {
      for (int64_t i = 0; i < count; ++i) {
        LoadRow(row(call.k, token(i), head), call.k.dtype(), rows + i * key_size_, key_size_);
      }
      Transpose(count, key_size_, rows, key_size_, const_cast<float*>(Keys(where, block, head)),
                kBlock);
    }
    for (int64_t head = 0; head < value_heads_; ++head) {
      float* out = const_cast<float*>(Values(where, block, head));
      for (int64_t i = 0; i < count; ++i) {
        LoadRow(row(call.v, token(i), head), call.v.dtype(), out + i * value_size_, value_size_);
      }
      finite_[ValueBlock(where, block, head)] = AllFiniteRow(out, count * value_size_) ? 1 : 0;
    }
  }

  int64_t key_heads_, value_heads_, key_size_, value_size_, blocks_;
  std::vector<int64_t> first_block_;
  Tensor keys_;
  Tensor values_;
  std::vector<uint8_t> finite_;  // By (sequence, block, value head).
};

// One tile of queries of one head, from its queries to its outputs.
class QueryTile {
 public:
  QueryTile(const SoftmaxCall& call, const PackedKeys& packed, const SoftmaxPlace& place,
            int64_t begin, int64_t count)
      : call_(call),
        packed_(packed),
        place_(place),
        begin_(begin),
        count_(count),
        key_size_(call.q.dim(3)),
        value_size_(call.v.dim(3)),
        key_head_(place.head / (call.q.dim(2) / call.k.dim(2))),
        value_head_(place.head / (call.q.dim(2) / call.v.dim(2))) {}

  void Run() {
    q_ = scratch_.Take<float>(count_ * key_size_);
    scores_ = scratch_.Take<float>(count_ * kBlock);
    o_ = scratch_.Take<float>(count_ * value_size_);
    most_ = scratch_.Take<float>(count_);
    sum_ = scratch_.Take<float>(count_);
    pieces_ = scratch_.Take<Piece>(kBlock);
    const double softcap = call_.softcap;
    const auto factor = static_cast<float>(softcap > 0 ? call_.scale / softcap : call_.scale);
    for (int64_t i = 0; i < count_; ++i) {
      LoadRow(static_cast<const char*>(call_.q.raw()) +
                  Row(i) * key_size_ * static_cast<int64_t>(SizeOf(call_.q.dtype())),
              call_.q.dtype(), q_ + i * key_size_, key_size_);
    }
    ScaleRow(q_, factor, count_ * key_size_);
    std::fill(o_, o_ + count_ * value_size_, 0.0f);
    std::fill(most_, most_ + count_, kMinusInfinity);
    std::fill(sum_, sum_ + count_, 0.0f);
    call_.rule->ForEachRun(place_, begin_, count_, [this](const KeyRun& run) { Add(run); });
    Flush();
    Finish();
  }

 private:
  // Part of a run that lies in one block; `at` is its first column among the scores.
  struct Piece {
    int64_t key;
    int64_t length;
    int64_t at;
    bool full;
  };

  // Index of (row, token, head) in q, o and lse.
  int64_t Row(int64_t i) const {
    const Sequence& queries = call_.queries[static_cast<size_t>(place_.sequence)];
    const int64_t number = begin_ + i;
    const int64_t token =
        call_.query_order.empty() ? number : call_.query_order[static_cast<size_t>(number)];
    return (queries.row * call_.q.dim(1) + queries.begin + token) * call_.q.dim(2) + place_.head;
  }

  void Add(const KeyRun& run) {
    int64_t key = run.begin;
    int64_t left = run.length;
    while (left > 0) {
      const int64_t length = std::min(left, kBlock - key % kBlock);
      AddPiece(key, length, run.full);
      key += length;
      left -= length;
    }
  }

  void AddPiece(int64_t key, int64_t length, bool full) {
    if (n_pieces_ > 0) {
      const Piece& last = pieces_[n_pieces_ - 1];
      const bool adjoins = contiguous_ && last.key + last.length == key && key % kBlock != 0;
      if (!adjoins) {
        const bool worth_gathering = length < kShortRun && (!contiguous_ || columns_ < kShortRun);
        if (!worth_gathering || columns_ + length > kBlock) {
          Flush();
        } else {
          contiguous_ = false;
        }
      }
    }
    pieces_[n_pieces_++] = Piece{key, length, columns_, full};
    columns_ += length;
  }

  // Scores of the collected keys, and what they add to sums and outputs.
  void Flush() {
    if (columns_ == 0) return;
    const int64_t offset = pieces_[0].key % kBlock;
    const float* k = packed_.Keys(place_.sequence, pieces_[0].key / kBlock, key_head_) + offset;
    const float* v = packed_.Values(place_.sequence, pieces_[0].key / kBlock, value_head_) +
                     offset * value_size_;
    if (!contiguous_) Gather(k, v);
    const bool finite = AllFinite();
    if (!finite) v = TakeOut(v);
    Gemm(count_, columns_, key_size_, q_, key_size_, k, kBlock, scores_, kBlock, false);
    for (int64_t i = 0; i < count_; ++i) Weigh(i, scores_ + i * kBlock);
    Gemm(count_, value_size_, columns_, scores_, kBlock, v, value_size_, o_, value_size_, true);
    if (!finite) AddNonFinite();
    n_pieces_ = 0;
    columns_ = 0;
    contiguous_ = true;
  }

  void Gather(const float*& k, const float*& v) {
    if (gathered_k_ == nullptr) {
      gathered_k_ = scratch_.Take<float>(key_size_ * kBlock);
      gathered_v_ = scratch_.Take<float>(kBlock * value_size_);
    }
    for (int64_t p = 0; p < n_pieces_; ++p) {
      const Piece& piece = pieces_[p];
      const int64_t block = piece.key / kBlock;
      const int64_t offset = piece.key % kBlock;
      const float* from = packed_.Keys(place_.sequence, block, key_head_) + offset;
      for (int64_t c = 0; c < key_size_; ++c) {
        std::copy(from + c * kBlock, from + c * kBlock + piece.length,
                  gathered_k_ + c * kBlock + piece.at);
      }
      const float* values =
          packed_.Values(place_.sequence, block, value_head_) + offset * value_size_;
      std::copy(values, values + piece.length * value_size_, gathered_v_ + piece.at * value_size_);
    }
    k = gathered_k_;
    v = gathered_v_;
  }

  bool AllFinite() const {
    return std::all_of(pieces_, pieces_ + n_pieces_, [this](const Piece& piece) {
      return packed_.Finite(place_.sequence, piece.key / kBlock, value_head_);
    });
  }

  // A copy of the collected values without those that are not finite.
  const float* TakeOut(const float* v) {
    if (finite_v_ == nullptr) finite_v_ = scratch_.Take<float>(kBlock * value_size_);
    std::copy(v, v + columns_ * value_size_, finite_v_);
    odd_.TakeOut(finite_v_, columns_, value_size_);
    return finite_v_;
  }

  // Adds what was taken out to the outputs of those queries that may see it.
  void AddNonFinite() {
    Scratch scratch;
    float* allowed = scratch.Take<float>(kBlock);
    for (int64_t i = 0; i < count_; ++i) {
      std::fill(allowed, allowed + columns_, 0.0f);
      Mask(i, allowed);
      for (const NonFinite::Element& x : odd_.elements()) {
        if (allowed[x.row] == kMinusInfinity) continue;
        // Whatever its weight, which may have come to 0.
        o_[i * value_size_ + x.column] += x.value;
      }
    }
  }

  // Sets the scores of query i against collected keys that it may not attend to to -inf.
  void Mask(int64_t i, float* scores) const {
    for (int64_t p = 0; p < n_pieces_; ++p) {
      const Piece& piece = pieces_[p];
      if (piece.full) continue;
      call_.rule->Mask(place_, begin_ + i, piece.key, piece.length, scores + piece.at);
    }
  }

  // Turns a row of scores into weights relative to the row's new maximum.
  void Weigh(int64_t i, float* scores) {
    if (call_.softcap > 0) {
      TanhRow(scores, columns_);
      ScaleRow(scores, static_cast<float>(call_.softcap), columns_);
    }
    Mask(i, scores);
    const float found = MaxRow(scores, columns_);
    const float most = std::isnan(found) ? found : std::max(most_[i], found);
    if (most == kMinusInfinity) {  // Nothing allowed so far: -inf - -inf must not be formed.
      std::fill(scores, scores + columns_, 0.0f);
      return;
    }
    const float shrink = std::exp(most_[i] - most);
    sum_[i] = sum_[i] * shrink + ExpShiftedRow(scores, most, scores, columns_);
    if (shrink != 1.0f) ScaleRow(o_ + i * value_size_, shrink, value_size_);
    most_[i] = most;
  }

  void Finish() {
    for (int64_t i = 0; i < count_; ++i) {
      float* o = o_ + i * value_size_;
      // Zeros stay zeros, whatever the sink is.
      const bool nothing = most_[i] == kMinusInfinity;
      if (call_.sinks.defined()) {
        const float sink = call_.sinks.data<float>()[place_.head];
        const float most = std::isnan(sink) ? sink : std::max(most_[i], sink);
        if (most != kMinusInfinity) {
          const float shrink = std::exp(most_[i] - most);
          sum_[i] = sum_[i] * shrink + std::exp(sink - most);
          if (!nothing) ScaleRow(o, shrink, value_size_);
          most_[i] = most;
        }
      }
      const bool empty = most_[i] == kMinusInfinity;
      if (!nothing) ScaleRow(o, 1.0f / sum_[i], value_size_);
      const int64_t row = Row(i);
      StoreRow(o, call_.o.dtype(),
               static_cast<char*>(call_.o.raw()) +
                   row * value_size_ * static_cast<int64_t>(SizeOf(call_.o.dtype())),
               value_size_);
      if (call_.lse.defined()) {
        call_.lse.data<float>()[row] = empty ? kMinusInfinity : most_[i] + std::log(sum_[i]);
      }
    }
  }

  const SoftmaxCall& call_;
  const PackedKeys& packed_;
  const SoftmaxPlace place_;
  const int64_t begin_, count_, key_size_, value_size_, key_head_, value_head_;

  Scratch scratch_;
  float* q_ = nullptr;       // [count,K], scaled.
  float* scores_ = nullptr;  // [count,kBlock]
  float* o_ = nullptr;       // [count,V], relative to exp(most).
  float* most_ = nullptr;    // [count]
  float* sum_ = nullptr;     // [count], relative to exp(most).
  float* gathered_k_ = nullptr;
  float* gathered_v_ = nullptr;
  float* finite_v_ = nullptr;
  NonFinite odd_;  // Taken out of finite_v_.

  // The keys of the next product, in order.
  Piece* pieces_ = nullptr;
  int64_t n_pieces_ = 0;
  int64_t columns_ = 0;
  bool contiguous_ = true;  // They lie side by side in one block.
};

}  // namespace

absl::Status Softmax(Backend& backend, const SoftmaxCall& call) {
  PackedKeys packed(call, PackedKeys::CountBlocks(call));
  if (absl::Status s = packed.Fill(backend, call); !s.ok()) return s;

  struct Task {
    SoftmaxPlace place;
    int64_t begin;
    int64_t count;
  };
  std::vector<Task> tasks;
  double pairs = 0;
  for (size_t i = 0; i < call.queries.size(); ++i) {
    SoftmaxPlace place{call.queries[i].row, static_cast<int64_t>(i), 0, call.queries[i].length,
                       call.keys[i].length};
    pairs += static_cast<double>(place.queries) * static_cast<double>(place.keys);
    // Tiles of one head side by side: a thread finds the head's keys in its cache.
    for (place.head = 0; place.head < call.q.dim(2); ++place.head) {
      for (int64_t begin = 0; begin < place.queries;) {
        const int64_t count = std::min(place.queries - begin, call.rule->TileLength(place, begin));
        tasks.push_back(Task{place, begin, count});
        begin += count;
      }
    }
  }
  const double work =
      2 * pairs * static_cast<double>(call.q.dim(2) * (call.q.dim(3) + call.v.dim(3)));
  ParallelFor(static_cast<int64_t>(tasks.size()), work, [&](int64_t index) {
    const Task& task = tasks[static_cast<size_t>(index)];
    QueryTile(call, packed, task.place, task.begin, task.count).Run();
  });
  return absl::OkStatus();
}

}  // namespace attnd::cpu
