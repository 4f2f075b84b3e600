// One token's passes over its head's memory in a replayed recurrence (replay_recurrence.h): every
// float of the anchor and of the running chunk is read once, and while it is multiplied the memory
// that the thread wants next is asked for. Of many sessions each one's state comes from far away.
//
// Sums are chains as in ordered_product.h: the bits are those of products done one by one.
#ifndef ATTND_KERNELS_CORES_REPLAY_TOKEN_H_
#define ATTND_KERNELS_CORES_REPLAY_TOKEN_H_

#include <cstdint>

namespace attnd::cpu {

// Rows that read: the query, and for the delta rule the key.
inline constexpr int kMostReads = 2;

// read[i,:] = asked[i,:] S for `reads` rows: asked [reads,K], S [K,V], read [reads,V]. `next` (may
// be null) is the anchor that this thread reads after this one.
void ReadAnchor(int64_t reads, int64_t key_size, int64_t value_size, const float* asked,
                const float* anchor, const float* next, float* read);

struct ReplayToken {
  int64_t reads = 1;
  int64_t key_size = 0, value_size = 0;  // K, V
  int64_t before = 0;                    // Tokens in the chunk before this one: r.
  float* keys = nullptr;                 // [K,kChunk]
  float* values = nullptr;               // [kChunk,V]
  const float* decay = nullptr;          // Of the r keys so far; null: none.
  int64_t decay_step = 0;                // 0: one for all channels, 1: [K].
  const float* key = nullptr;            // [K]
  const float* value = nullptr;          // [V]
  float beta = 1;
  const float* asked = nullptr;      // [reads,K]
  float* weights = nullptr;          // Out [reads,kChunk]: of the chunk's keys, the first r + 1.
  const float* read = nullptr;       // [reads,V]: from the anchor.
  float* y = nullptr;                // Out [V].
  const float* next_keys = nullptr;  // As `next` above; next_values is behind it.
  const float* next_values = nullptr;
};

// Decays the chunk's keys, adds the token's key and its value (for two reads less what the memory
// holds under the key, times beta), and finds what the query reads of anchor and chunk.
void RunToken(const ReplayToken& token);

}  // namespace attnd::cpu

#endif  // ATTND_KERNELS_CORES_REPLAY_TOKEN_H_
