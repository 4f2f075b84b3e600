#include "kernels/core/nearest.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_join.h"

namespace attnd {
namespace {

// Levenshtein distance of two short names.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

}  // namespace

std::string NearestNames(absl::string_view name, const std::vector<absl::string_view>& known) {
  name = name.substr(0, 64);
  std::vector<std::pair<size_t, absl::string_view>> ranked;
  ranked.reserve(known.size());
  for (absl::string_view candidate : known)
    ranked.emplace_back(EditDistance(name, candidate), candidate);
  std::sort(ranked.begin(), ranked.end());
  if (ranked.size() > 3) ranked.resize(3);
  return absl::StrJoin(ranked, ", ", [](std::string* out, const auto& entry) {
    out->append(entry.second.data(), entry.second.size());
  });
}

}  // namespace attnd
