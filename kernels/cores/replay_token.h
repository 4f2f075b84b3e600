// One token's pass over its head's state in a replayed recurrence (replay_recurrence.h): every
// float of the anchor and of the running chunk is read once, and while it is multiplied the memory
// that the thread wants next is asked for. Of many sessions each one's state comes from far away.
//
// Sums are chains as in ordered_product.h: the bits are those of products done one by one.
#ifndef ATTND_KERNELS_CORES_REPLAY_TOKEN_H_
#define ATTND_KERNELS_CORES_REPLAY_TOKEN_H_

#include <cstdint>

namespace attnd::cpu {

// Tokens of a chunk. A step reads a state and half a chunk, and in one step of this many the state
// is written: of few tokens both are little, and a channel's keys are one line.
inline constexpr int64_t kReplayChunk = 16;

struct ReplayToken {
  int64_t reads = 1;                     // Rows that read: the query, then for the delta rule the
                                         // key.
  int64_t key_size = 0, value_size = 0;  // K, V
  int64_t before = 0;                    // Tokens in the chunk before this one: r.
  float* keys = nullptr;                 // [K,kReplayChunk]
  float* values = nullptr;               // [kReplayChunk,V]
  const float* decay = nullptr;          // Of the keys so far, [1] or [K]; null: none.
  int64_t decay_step = 0;                // Between channels' decays: 0 or 1.
  const float* key = nullptr;            // [K]
  const float* value = nullptr;          // [V]
  float beta = 1;
  const float* asked = nullptr;  // [reads,K]
  float* weights = nullptr;      // Out [reads,kReplayChunk]: of the chunk's keys, the first r + 1.
  // What the anchor S [K,V] holds under `since_start` [reads,K], asked decayed. Without an anchor
  // the caller says it in `read` [reads,V], which is scratch else.
  const float* anchor = nullptr;
  const float* since_start = nullptr;
  float* read = nullptr;
  float* y = nullptr;  // Out [V].
  // What this thread reads after this token, by part; null: nothing.
  const float* next_anchor = nullptr;
  const float* next_keys = nullptr;
  const float* next_values = nullptr;
};

// Decays the chunk's keys, adds the token's key and its value (for two reads less what the memory
// holds under the key, times beta), and finds what the query reads of anchor and chunk.
void RunToken(const ReplayToken& token);

}  // namespace attnd::cpu

#endif  // ATTND_KERNELS_CORES_REPLAY_TOKEN_H_
