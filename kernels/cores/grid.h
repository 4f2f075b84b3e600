// Tokens that form a grid: a row, an image or a volume, row-major over the axes that attributes
// give.
#ifndef ATTND_KERNELS_CORES_GRID_H_
#define ATTND_KERNELS_CORES_GRID_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "kernels/core/call.h"
#include "kernels/core/random_call.h"

namespace attnd {

// `own` attributes, then height, width and depth, all absent by default.
std::vector<std::string> GridAttributes(std::vector<std::string> own);
// Before `own` rules: width wherever there is a height, height wherever there is a depth, and where
// there is a width the size `tokens` ("T - prefix") is the grid's.
std::vector<std::string> GridRules(const std::vector<std::string>& own, absl::string_view tokens);

// Sizes of the axes (depth, height, width, as far as given); without any, one axis of `tokens`.
Dims GridOf(const BoundCall& call, int64_t tokens);

// For random hooks: a small grid of so many axes (0: attributes stay absent) and the size `symbol`
// that it has, of `before` tokens more. Returns the number of axes in force: callers may have fixed
// some.
int64_t DrawGrid(RandomSource& source, absl::string_view symbol, int64_t axes, int64_t before = 0);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_GRID_H_
