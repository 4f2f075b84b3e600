#include "kernels/cores/slopes.h"

#include <bit>
#include <cmath>

namespace attnd {

std::vector<double> RetentionDecays(int64_t heads) {
  std::vector<double> decays;
  for (int64_t h = 0; h < heads; ++h)
    decays.push_back(std::log1p(-std::exp2(-5.0 - static_cast<double>(h))));
  return decays;
}

std::vector<double> AlibiSlopes(int64_t heads) {
  const auto power = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(heads)));
  std::vector<double> slopes;
  for (int64_t h = 0; h < power; ++h) {
    slopes.push_back(std::exp2(-8.0 * static_cast<double>(h + 1) / static_cast<double>(power)));
  }
  // Indices 0, 2, 4, .. of 2 * power heads.
  for (int64_t h = 0; h < heads - power; ++h) {
    slopes.push_back(
        std::exp2(-8.0 * static_cast<double>(2 * h + 1) / static_cast<double>(2 * power)));
  }
  return slopes;
}

std::vector<double> LayerDecays(absl::string_view kind, int64_t heads, int64_t layer,
                                int64_t layers) {
  std::vector<double> decays(static_cast<size_t>(heads), 0.0);
  const auto at = static_cast<double>(layer), depth = static_cast<double>(layers);
  if (kind == "alibi") {
    decays = AlibiSlopes(heads);
    // The last layer keeps a trace of decay, as its authors' models do.
    for (double& g : decays) g *= -(layers > 1 ? 1 - at / (depth - 1) + 1e-5 : 1 + 1e-5);
  } else if (kind == "linear") {
    for (int64_t h = 0; h < heads; ++h) {
      decays[static_cast<size_t>(h)] =
          -8.0 / static_cast<double>(heads) * (1 - at / depth) * static_cast<double>(h);
    }
  }
  return decays;
}

}  // namespace attnd
