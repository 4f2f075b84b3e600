#include "kernels/cores/replay_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/primitives/cpu/ordered_product.h"
#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"

namespace attnd::cpu {

void WritePage(const ReplayHeads& heads, int64_t position, const float* key, const float* value,
               float* page) {
  const int64_t at = position % kPage;
  if (heads.latent) {
    std::copy_n(key, heads.key_size, page + at * heads.key_size);
    return;
  }
  for (int64_t c = 0; c < heads.key_size; ++c) page[c * kPage + at] = key[c];
  std::copy_n(value, heads.value_size, page + heads.key_size * kPage + at * heads.value_size);
}

void ReplayQuery(const ReplayHeads& heads, int64_t position, int64_t left,
                 absl::Span<const float* const> pages, const float* q, float* o) {
  constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
  const int64_t K = heads.key_size, V = heads.value_size;
  const int64_t oldest = left < 0 ? 0 : std::max<int64_t>(0, position - left);
  Scratch scratch;
  float* scores = scratch.Take<float>(kPage);
  float most = kMinusInfinity;
  float sum = 0;
  std::fill_n(o, V, 0.0f);
  for (int64_t page = oldest / kPage; page <= position / kPage; ++page) {
    const float* keys = pages[static_cast<size_t>(page)];
    const int64_t begin = std::max<int64_t>(0, oldest - page * kPage);
    const int64_t end = std::min(kPage, position - page * kPage + 1);
    // Every page is a row of kPage scores, so that its maximum and its sum are formed alike.
    if (heads.latent) {
      for (int64_t s = begin; s < end; ++s) scores[s] = DotRow(q, keys + s * K, K);
    } else {
      OrderedProduct(1, end, K, q, K, keys, kPage, scores, kPage, false);
    }
    std::fill(scores, scores + begin, kMinusInfinity);
    std::fill(scores + end, scores + kPage, kMinusInfinity);
    const float found = MaxRow(scores, kPage);
    const float now = std::isnan(found) ? found : std::max(most, found);
    if (now == kMinusInfinity) continue;
    const float shrink = std::exp(most - now);
    sum = sum * shrink + ExpShiftedRow(scores, now, scores, kPage);
    if (shrink != 1.0f) ScaleRow(o, shrink, V);
    const float* values = heads.latent ? keys : keys + K * kPage;
    const int64_t stride = heads.latent ? K : V;
    OrderedProduct(1, V, end - begin, scores + begin, kPage, values + begin * stride, stride, o, V,
                   true);
    most = now;
  }
  if (most != kMinusInfinity) ScaleRow(o, 1.0f / sum, V);
}

}  // namespace attnd::cpu
