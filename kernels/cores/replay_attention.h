// Causal softmax attention for sessions: queries at positions p meet the keys of positions
// max(0, p - left) to p, kept in pages. The bits of an output depend on the query and on those keys
// alone: pages begin at multiples of their size and are met in order, however tokens were cut into
// calls.
//
//   o = sum_j e^(s_j - m) v_j / sum_j e^(s_j - m),  s_j = q·k_j, m their maximum
#ifndef ATTND_KERNELS_CORES_REPLAY_ATTENTION_H_
#define ATTND_KERNELS_CORES_REPLAY_ATTENTION_H_

#include <cstdint>

#include "absl/types/span.h"

namespace attnd::cpu {

// Positions of a page.
inline constexpr int64_t kPage = 64;

// A page holds one key head's keys transposed, [K,kPage], then its values, [kPage,V]; or, for
// latents, rows [kPage,K] whose first V channels are the values too.
struct ReplayHeads {
  int64_t key_size = 0;    // K
  int64_t value_size = 0;  // V
  bool latent = false;     // Then V <= K.
  int64_t page_size() const { return kPage * (key_size + (latent ? 0 : value_size)); }
};

// Writes the key and value of one position into its page; of latents, which are both, the key
// alone.
void WritePage(const ReplayHeads& heads, int64_t position, const float* key, const float* value,
               float* page);

// The output of one query row at `position`. pages[i] holds positions [i kPage, (i + 1) kPage);
// pages that lie before the window may be null. q is scaled; left < 0: no window.
void ReplayQuery(const ReplayHeads& heads, int64_t position, int64_t left,
                 absl::Span<const float* const> pages, const float* q, float* o);

}  // namespace attnd::cpu

#endif  // ATTND_KERNELS_CORES_REPLAY_ATTENTION_H_
