// Constant log decays per head, as the papers' layers set them.
#ifndef ATTND_KERNELS_CORES_SLOPES_H_
#define ATTND_KERNELS_CORES_SLOPES_H_

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"

namespace attnd {

// log(1 - 2^(-5-h)) (Sun et al., "Retentive Network", 2023).
std::vector<double> RetentionDecays(int64_t heads);

// ALiBi's slopes 2^(-8(h+1)/heads) for a power of two; otherwise those of the largest power of two
// below, then every second slope of twice as many heads (Press et al., "Train Short, Test Long",
// 2021).
std::vector<double> AlibiSlopes(int64_t heads);

// Decays that fade with depth, of layer `layer` of `layers`, by the name of their kind: "alibi",
// -slope (1 - layer/(layers - 1) + 1e-5) (Qin et al., "TransNormerLLM", 2023); "linear",
// -8h/heads (1 - layer/layers) (flash-linear-attention); any other: zeros.
std::vector<double> LayerDecays(absl::string_view kind, int64_t heads, int64_t layer,
                                int64_t layers);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_SLOPES_H_
