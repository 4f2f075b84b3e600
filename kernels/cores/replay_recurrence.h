// The linear recurrence and the delta rule for sessions (linear_recurrent.h and delta.h have the
// equations): one head's tokens arrive a few at a time, and outputs and states are the same bits
// however they were cut into calls.
//
// The canonical state is S at the last multiple of the chunk, the anchor, beside the running chunk:
// its keys, decayed up to the last token, and its values (for the delta rule the corrections u).
// Token r of the running chunk is computed from the anchor and the chunk's r + 1 keys:
//
//   w_s = q_r·(k_s e^(G_r - G_s)),  y_r = (q_r e^G_r)^T S + sum_{s<=r} w_s u_s
//
// in an order that no later token changes, and S is written once a chunk, when the chunk is full: a
// step reads the anchor instead of reading and writing a state.
#ifndef ATTND_KERNELS_CORES_REPLAY_RECURRENCE_H_
#define ATTND_KERNELS_CORES_REPLAY_RECURRENCE_H_

#include <cstdint>

#include "kernels/cores/recurrent_tiles.h"
#include "kernels/cores/replay_token.h"

namespace attnd::cpu {

struct ReplayShape {
  int64_t key_size = 0;        // K
  int64_t value_size = 0;      // V
  Decay decay = Decay::kNone;  // kHead counts as kScalar: the caller repeats its constant.
  bool delta = false;
  bool normalise = false;  // Keeps z_t = e^g_t z_{t-1} + k_t as well; not with delta.
};

// Floats of one head's state, and where its parts begin. All zeros is the state before the first
// token. `anchor` floats come first: S [K,V], then z [K] if the shape normalises; they are all that
// counts at a multiple of the chunk. What follows is the running chunk: the decay since its start
// ([K], or [1]), keys [K,kReplayChunk] and values [kReplayChunk,V]. Parts, and heads one behind the
// other, begin with a cache line if the first one does: a vector of a row is then in one line.
struct ReplayLayout {
  explicit ReplayLayout(const ReplayShape& shape);
  int64_t anchor;
  int64_t since_start;
  int64_t keys;
  int64_t values;
  int64_t size;
};

// Consecutive tokens of one head, each tensor's rows `stride` floats apart.
struct ReplayRows {
  int64_t count = 0;
  const float* q = nullptr;  // [count,K], scaled.
  int64_t q_stride = 0;
  const float* k = nullptr;  // [count,K]
  int64_t k_stride = 0;
  const float* v = nullptr;  // [count,V]
  int64_t v_stride = 0;
  const float* g = nullptr;  // Log decay: [count] or [count,K]; null without one.
  int64_t g_stride = 0;
  const float* beta = nullptr;  // [count], null: 1. For delta.
  int64_t beta_stride = 0;
  float* y = nullptr;  // [count,V]
  int64_t y_stride = 0;
  float* dots = nullptr;  // [count]: q_t·z_t, if the shape normalises.
  int64_t dots_stride = 0;
  // Of one token: a state of this shape that the thread reads after this one, asked for from far
  // memory meanwhile; null: none.
  const float* next_state = nullptr;
};

// Advances one head's state over rows.count tokens, of which `position` came before. Runs on this
// thread.
void Replay(const ReplayShape& shape, int64_t position, const ReplayRows& rows, float* state);

}  // namespace attnd::cpu

#endif  // ATTND_KERNELS_CORES_REPLAY_RECURRENCE_H_
