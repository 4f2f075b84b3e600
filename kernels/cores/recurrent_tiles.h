// What the chunkwise recurrent cores share on the CPU: chunks of tokens as float32 rows, and the
// decay between the tokens of a chunk. Decays are sums of log gates over an interval; every one is
// summed up directly, never as a difference of prefix sums, so that -inf is legal and nothing
// cancels.
#ifndef ATTND_KERNELS_CORES_RECURRENT_TILES_H_
#define ATTND_KERNELS_CORES_RECURRENT_TILES_H_

#include <cstdint>

#include "kernels/core/call.h"
#include "kernels/core/tensor.h"

namespace attnd {

// How a state forgets between tokens.
enum class Decay : uint8_t {
  kNone,
  kHead,    // g float32 [HO]: one constant for each head.
  kScalar,  // g float32 [B,T,HG]
  kVector,  // g float32 [B,T,HG,K]: one for each key channel.
};

namespace cpu {

// Tokens of a chunk, and of the sub-chunks in which vector gates are factored.
inline constexpr int64_t kChunk = 64;
inline constexpr int64_t kSubChunk = 16;

// Rows [begin, begin + count) of one head of x [B,T,heads,width] as float32 [count,width]; `head`
// of `all_heads` reads head / (all_heads / heads).
void LoadHeadRows(const Tensor& x, int64_t row, int64_t begin, int64_t count, int64_t head,
                  int64_t all_heads, float* out);

// The way back, into one head of out [B,T,heads,width].
void StoreHeadRows(const float* rows, const Tensor& out, int64_t row, int64_t begin, int64_t count,
                   int64_t head);

// The gates of one chunk of one head.
class ChunkDecay {
 public:
  // Scratch of `width` (K) channels; lives as long as the caller's Scratch.
  ChunkDecay(Decay kind, const Tensor& g, int64_t all_heads, int64_t head, int64_t width,
             float* memory);
  static int64_t MemorySize(Decay kind, int64_t width);

  // Reads the gates of tokens [begin, begin + count) and sums them up.
  void Load(int64_t row, int64_t begin, int64_t count);
  // Instead of Load: the caller writes `count` gates ([count,K] for kVector) to gates(), then Sum
  // sums them up.
  float* gates() { return gates_; }
  void Sum(int64_t count);

  // out[r,s] = sum_i a_ri b_si e^(G_r - G_s)_i for s <= r < count, and 0 for s > r; a, b [count,K],
  // out [count,kChunk].
  void Products(const float* a, const float* b, float* out) const;

  // out_r = a_r e^(G_r): the decay since the chunk's start, the token's own gate included. Legal in
  // place.
  void SinceStart(const float* a, float* out) const;
  // out_r = a_r e^(G_end - G_r): the decay until the chunk's end. Legal in place.
  void UntilEnd(const float* a, float* out) const;
  // state[i,:] *= e^(G_end)_i; state [K,width].
  void DecayState(float* state, int64_t width) const;

 private:
  void PlainProducts(const float* a, const float* b, float* out) const;
  void VectorProducts(const float* a, const float* b, float* out) const;
  void ScaleRows(const float* a, const float* factors, float* out) const;
  void DiagonalBlock(const float* a, const float* b, int64_t first, int64_t rows, float* out) const;
  void FactoredPairs(const float* a, const float* b, int64_t first, int64_t rows, int64_t mild,
                     const float* sums, float* out) const;

  Decay kind_;
  const Tensor& g_;
  int64_t all_heads_;
  int64_t head_;
  int64_t width_;
  int64_t count_ = 0;
  float* gates_;        // kVector [kChunk,K], else [kChunk].
  float* since_start_;  // e^(G_r): same shape.
  float* until_end_;    // e^(G_end - G_r): same shape.
  float* between_;      // Not kVector: e^(G_r - G_s), [kChunk,kChunk].
};

}  // namespace cpu
}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_RECURRENT_TILES_H_
