// What the two kernels of the recurrent core are launched with.
#ifndef ATTND_KERNELS_CORES_RECURRENT_PARAMS_CUH_
#define ATTND_KERNELS_CORES_RECURRENT_PARAMS_CUH_

#include <cstdint>

#include "kernels/cores/recurrent_tiles.h"
#include "kernels/cuda/elements.cuh"

namespace attnd::cuda {

inline constexpr int kChunk = 64;
inline constexpr int kSubChunk = 16;
inline constexpr int kRecurrentThreads = 256;
inline constexpr int kPad = 8;                 // Floats between a tile's rows.
inline constexpr int kSquare = kChunk + kPad;  // Row of a tile of chunk x chunk.

// One chunk of one sequence.
struct Chunk {
  int64_t row;    // Batch row.
  int64_t begin;  // First token.
  int64_t count;
};

// One sequence as a run of chunks.
struct Run {
  int64_t first_chunk;
  int64_t chunks;
  int64_t state;
};

// A tensor [B,T,heads,width] as a head of HO sees it.
struct HeadView {
  Elements elements;
  int64_t tokens;  // T
  int heads;
  int group;  // HO / heads
  int width;

  __device__ int64_t At(int64_t row, int64_t token, int head) const {
    return ((row * tokens + token) * heads + head / group) * width;
  }
};

struct RecurrentParams {
  HeadView q, k, v, g, value_decay, beta, o;
  Decay decay;
  bool delta;
  bool fades;  // Whether value_decay is given.
  float scale;
  int heads;  // HO
  int K, V;
  int padded_K;  // A multiple of 16.

  const Chunk* chunks;
  const Run* runs;

  // Of every chunk and head, rows of padded_K: q e^G scale, k e^G (delta rule), k e^(G_end - G);
  // e^G_end; the weights P [64,64] and the inverse [64,64] (delta rule).
  float* queries;
  float* keys_since;
  float* keys_until;
  float* end;
  float* weights;
  float* inverse;

  const float* initial_state;
  float* final_state;
  const float* initial_z;
  float* final_z;
  float* dots;

  __device__ int64_t Slot(int64_t chunk, int head) const { return chunk * heads + head; }
};

// Bytes of shared memory that a block takes: by K, the kind of decay, delta and fades.
int PrepareSharedMemory(const RecurrentParams& p);
int WalkSharedMemory(const RecurrentParams& p);

// The first kernel, one block for each chunk of each head; `chunks` of them.
cudaError_t LaunchPrepare(cudaStream_t stream, const RecurrentParams& p, int64_t chunks);

// The second, one block for each slice of V, head and sequence; `runs` of the last.
cudaError_t LaunchWalk(cudaStream_t stream, const RecurrentParams& p, int64_t runs);

// The normaliser, one block for each head and sequence.
cudaError_t LaunchNormaliser(cudaStream_t stream, const RecurrentParams& p, int64_t runs);

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CORES_RECURRENT_PARAMS_CUH_
