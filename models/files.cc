#include "models/files.h"

#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/str_cat.h"

namespace attnd::models {

absl::StatusOr<std::string> ReadTextFile(const std::string& path) {
  constexpr uintmax_t kMost = 64 << 20;
  const std::string name = std::filesystem::path(path).filename().string();
  std::error_code error;
  const uintmax_t size = std::filesystem::file_size(path, error);
  std::ifstream file(path, std::ios::binary);
  if (error || !file) return absl::NotFoundError(absl::StrCat(name, ": no such file"));
  if (size > kMost) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": given ", size, " bytes, expected at most ", kMost));
  }
  return std::string(std::istreambuf_iterator<char>(file), {});
}

}  // namespace attnd::models
