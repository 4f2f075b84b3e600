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

}  // namespace attnd
