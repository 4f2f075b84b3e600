#include "kernels/cores/recurrent_tiles.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/primitives/cpu/gemm.h"
#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"

namespace attnd::cpu {
namespace {

// Within this much decay a block's weights factor into e^G_r e^-G_s without harm to float32:
// neither factor is large, and rounding of the sums stays below 1e-6.
constexpr float kFactorable = -16.0f;

// exp of [count, width] rows.
void ExpRows(float* rows, int64_t count, int64_t width) { ExpRow(rows, count * width); }

}  // namespace

void LoadHeadRows(const Tensor& x, int64_t row, int64_t begin, int64_t count, int64_t head,
                  int64_t all_heads, float* out) {
  const int64_t heads = x.dim(2), width = x.dim(3);
  const auto size = static_cast<int64_t>(SizeOf(x.dtype()));
  const int64_t own = head / (all_heads / heads);
  const char* at =
      static_cast<const char*>(x.raw()) + ((row * x.dim(1) + begin) * heads + own) * width * size;
  for (int64_t r = 0; r < count; ++r) {
    LoadRow(at + r * heads * width * size, x.dtype(), out + r * width, width);
  }
}

void StoreHeadRows(const float* rows, const Tensor& out, int64_t row, int64_t begin, int64_t count,
                   int64_t head) {
  const int64_t heads = out.dim(2), width = out.dim(3);
  const auto size = static_cast<int64_t>(SizeOf(out.dtype()));
  char* at =
      static_cast<char*>(out.raw()) + ((row * out.dim(1) + begin) * heads + head) * width * size;
  for (int64_t r = 0; r < count; ++r) {
    StoreRow(rows + r * width, out.dtype(), at + r * heads * width * size, width);
  }
}

int64_t ChunkDecay::MemorySize(Decay kind, int64_t width) {
  return kind == Decay::kVector ? 3 * kChunk * width : 3 * kChunk + kChunk * kChunk;
}

ChunkDecay::ChunkDecay(Decay kind, const Tensor& g, int64_t all_heads, int64_t head, int64_t width,
                       float* memory)
    : kind_(kind), g_(g), all_heads_(all_heads), head_(head), width_(width) {
  const int64_t size = kind == Decay::kVector ? kChunk * width : kChunk;
  gates_ = memory;
  since_start_ = memory + size;
  until_end_ = memory + 2 * size;
  between_ = kind == Decay::kVector ? nullptr : memory + 3 * size;
}

void ChunkDecay::Load(int64_t row, int64_t begin, int64_t count) {
  if (kind_ == Decay::kHead && count == count_) return;  // The same for every chunk of that length.
  switch (kind_) {
    case Decay::kNone:
      break;
    case Decay::kHead:
      std::fill(gates_, gates_ + count, g_.data<float>()[head_]);
      break;
    case Decay::kScalar: {
      const int64_t heads = g_.dim(2);
      const float* at =
          g_.data<float>() + (row * g_.dim(1) + begin) * heads + head_ / (all_heads_ / heads);
      for (int64_t r = 0; r < count; ++r) gates_[r] = at[r * heads];
      break;
    }
    case Decay::kVector:
      LoadHeadRows(g_, row, begin, count, head_, all_heads_, gates_);
      break;
  }
  Sum(count);
}

void ChunkDecay::Sum(int64_t count) {
  count_ = count;
  if (kind_ == Decay::kNone) return;
  const int64_t width = kind_ == Decay::kVector ? width_ : 1;
  // Prefix sums from the start, suffix sums from the end.
  std::memcpy(since_start_, gates_, static_cast<size_t>(width) * sizeof(float));
  for (int64_t r = 1; r < count; ++r) {
    AddRow(since_start_ + (r - 1) * width, gates_ + r * width, since_start_ + r * width, width);
  }
  std::fill(until_end_ + (count - 1) * width, until_end_ + count * width, 0.0f);
  for (int64_t r = count - 2; r >= 0; --r) {
    AddRow(until_end_ + (r + 1) * width, gates_ + (r + 1) * width, until_end_ + r * width, width);
  }
  ExpRows(since_start_, count, width);
  ExpRows(until_end_, count, width);
  if (kind_ == Decay::kVector) return;
  // between[r,s]: row r is row r-1 plus r's gate, and 0 on the diagonal.
  for (int64_t r = 0; r < count; ++r) {
    float* sums = between_ + r * kChunk;
    if (kind_ == Decay::kHead) {
      for (int64_t s = 0; s <= r; ++s) sums[s] = gates_[0] * static_cast<float>(r - s);
      if (std::isinf(gates_[0])) sums[r] = 0;
      continue;
    }
    for (int64_t s = 0; s < r; ++s) sums[s] = sums[s - kChunk] + gates_[r];
    sums[r] = 0;
  }
  for (int64_t r = 0; r < count; ++r) ExpRow(between_ + r * kChunk, r + 1);
}

void ChunkDecay::Products(const float* a, const float* b, float* out) const {
  if (kind_ == Decay::kVector) {
    VectorProducts(a, b, out);
  } else {
    PlainProducts(a, b, out);
  }
}

void ChunkDecay::PlainProducts(const float* a, const float* b, float* out) const {
  Scratch scratch;
  float* transposed = scratch.Take<float>(width_ * kChunk);
  Transpose(count_, width_, b, width_, transposed, kChunk);
  Gemm(count_, count_, width_, a, width_, transposed, kChunk, out, kChunk, false);
  for (int64_t r = 0; r < count_; ++r) {
    float* row = out + r * kChunk;
    if (kind_ != Decay::kNone) MulRow(row, between_ + r * kChunk, row, r + 1);
    std::fill(row + r + 1, row + count_, 0.0f);
  }
}

// Sub-chunk by sub-chunk: against all earlier tokens through the sub-chunk's first row n, as
// (a_r e^(G_r - G_n)) (b_s e^(G_n - G_s)) with both factors at most one; within the sub-chunk
// apart.
void ChunkDecay::VectorProducts(const float* a, const float* b, float* out) const {
  Scratch scratch;
  float* left = scratch.Take<float>(kSubChunk * width_);
  float* right = scratch.Take<float>(kChunk * width_);
  float* transposed = scratch.Take<float>(kChunk * width_);
  for (int64_t n = 0; n < count_; n += kSubChunk) {
    const int64_t rows = std::min(kSubChunk, count_ - n);
    for (int64_t r = 0; r < rows; ++r) {
      std::fill(out + (n + r) * kChunk + n, out + (n + r) * kChunk + count_, 0.0f);
    }
    DiagonalBlock(a, b, n, rows, out);
    if (n == 0) continue;
    std::fill(left, left + width_, 0.0f);
    for (int64_t r = 1; r < rows; ++r) {
      AddRow(left + (r - 1) * width_, gates_ + (n + r) * width_, left + r * width_, width_);
    }
    ExpRows(left, rows, width_);
    MulRow(left, a + n * width_, left, rows * width_);
    std::memcpy(right + (n - 1) * width_, gates_ + n * width_,
                static_cast<size_t>(width_) * sizeof(float));
    for (int64_t s = n - 2; s >= 0; --s) {
      AddRow(right + (s + 1) * width_, gates_ + (s + 1) * width_, right + s * width_, width_);
    }
    ExpRows(right, n, width_);
    MulRow(right, b, right, n * width_);
    Transpose(n, width_, right, width_, transposed, kChunk);
    Gemm(rows, n, width_, left, width_, transposed, kChunk, out + n * kChunk, kChunk, false);
  }
}

// Rows whose decay since the sub-chunk's start is mild are factored as e^G_r e^-G_s and multiplied
// at once; from the first strong one on, pairs are walked one by one. Which form a row takes
// depends on no later token.
void ChunkDecay::DiagonalBlock(const float* a, const float* b, int64_t first, int64_t rows,
                               float* out) const {
  Scratch scratch;
  float* sums = scratch.Take<float>(kSubChunk * width_);
  std::fill(sums, sums + width_, 0.0f);
  int64_t mild = 1;
  for (; mild < rows; ++mild) {
    float* sum = sums + mild * width_;
    AddRow(sum - width_, gates_ + (first + mild) * width_, sum, width_);
    // Comparison written so that NaN ends the run.
    if (!std::all_of(sum, sum + width_, [](float value) { return value >= kFactorable; })) break;
  }
  FactoredPairs(a, b, first, rows, mild, sums, out);
  for (int64_t s = 0; s < rows && mild < rows; ++s) {
    const float* key = b + (first + s) * width_;
    std::fill(sums, sums + width_, 0.0f);
    for (int64_t r = s; r < rows; ++r) {
      const float* query = a + (first + r) * width_;
      float& weight = out[(first + r) * kChunk + first + s];
      if (r == s) {
        if (r >= mild) weight = DotRow(query, key, width_);
        continue;
      }
      const float walked = DotDecayed(query, key, gates_ + (first + r) * width_, sums, width_);
      if (r >= mild) weight = walked;
    }
  }
}

// The product has the shape of the whole sub-chunk however few of its rows are mild: the bits of an
// element may depend on the shape, and none may depend on a later token's gate.
void ChunkDecay::FactoredPairs(const float* a, const float* b, int64_t first, int64_t rows,
                               int64_t mild, const float* sums, float* out) const {
  Scratch scratch;
  const int64_t size = mild * width_;
  float* left = scratch.Take<float>(rows * width_);
  float* right = scratch.Take<float>(rows * width_);
  float* transposed = scratch.Take<float>(kSubChunk * width_);
  float* block = scratch.Take<float>(kSubChunk * kSubChunk);
  for (int64_t i = 0; i < size; ++i) {
    left[i] = sums[i];
    right[i] = -sums[i];
  }
  ExpRow(left, size);
  ExpRow(right, size);
  MulRow(left, a + first * width_, left, size);
  MulRow(right, b + first * width_, right, size);
  std::fill(left + size, left + rows * width_, 0.0f);
  std::fill(right + size, right + rows * width_, 0.0f);
  Transpose(rows, width_, right, width_, transposed, kSubChunk);
  Gemm(rows, rows, width_, left, width_, transposed, kSubChunk, block, kSubChunk, false);
  for (int64_t r = 0; r < mild; ++r) {
    std::memcpy(out + (first + r) * kChunk + first, block + r * kSubChunk,
                static_cast<size_t>(r + 1) * sizeof(float));
  }
}

void ChunkDecay::SinceStart(const float* a, float* out) const {
  if (kind_ == Decay::kVector) return MulRow(a, since_start_, out, count_ * width_);
  ScaleRows(a, kind_ == Decay::kNone ? nullptr : since_start_, out);
}

void ChunkDecay::UntilEnd(const float* a, float* out) const {
  if (kind_ == Decay::kVector) return MulRow(a, until_end_, out, count_ * width_);
  ScaleRows(a, kind_ == Decay::kNone ? nullptr : until_end_, out);
}

void ChunkDecay::ScaleRows(const float* a, const float* factors, float* out) const {
  if (out != a) std::memcpy(out, a, static_cast<size_t>(count_ * width_) * sizeof(float));
  if (factors == nullptr) return;
  for (int64_t r = 0; r < count_; ++r) ScaleRow(out + r * width_, factors[r], width_);
}

void ChunkDecay::DecayState(float* state, int64_t width) const {
  if (kind_ == Decay::kNone) return;
  const float* last =
      kind_ == Decay::kVector ? since_start_ + (count_ - 1) * width_ : since_start_ + count_ - 1;
  if (kind_ != Decay::kVector) return ScaleRow(state, *last, width_ * width);
  for (int64_t i = 0; i < width_; ++i) ScaleRow(state + i * width, last[i], width);
}

}  // namespace attnd::cpu
