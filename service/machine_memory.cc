#include "service/machine_memory.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <limits>
#include <optional>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace attnd {
namespace {

using std::filesystem::path;

// The number that is all of a file; none for "max", or where there is no such file.
std::optional<int64_t> NumberIn(const path& file) {
  std::string text;
  int64_t number = 0;
  if (!(std::ifstream(file) >> text) || !absl::SimpleAtoi(text, &number)) return std::nullopt;
  return number;
}

// "MemTotal:       16384 kB" of /proc/meminfo.
std::optional<int64_t> PhysicalMemory(const path& root) {
  std::ifstream file(root / "proc/meminfo");
  std::string name;
  int64_t kilobytes = 0;
  while (file >> name) {
    if (name == "MemTotal:" && file >> kilobytes) return kilobytes * 1024;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return std::nullopt;
}

// The least limit of a group and of those around it.
std::optional<int64_t> LimitOfGroup(const path& hierarchy, const std::string& group,
                                    const char* limit) {
  std::optional<int64_t> least;
  // Within a container the group's path may be that of the host, where nothing is: its top is what
  // counts then.
  for (path inner = path(group).relative_path();; inner = inner.parent_path()) {
    if (const std::optional<int64_t> number = NumberIn(hierarchy / inner / limit)) {
      least = std::min(least.value_or(*number), *number);
    }
    if (inner.empty()) return least;
  }
}

}  // namespace

int64_t MachineMemory(const std::string& root) {
  const path top = root;
  std::vector<std::optional<int64_t>> limits = {PhysicalMemory(top)};
  // "0::/group" is version 2, "5:memory:/group" version 1: cgroups(7).
  std::ifstream groups(top / "proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    if (parts[0] == "0" && parts[1].empty()) {
      limits.push_back(LimitOfGroup(top / "sys/fs/cgroup", parts[2], "memory.max"));
    }
    const std::vector<absl::string_view> controllers = absl::StrSplit(parts[1], ',');
    if (std::find(controllers.begin(), controllers.end(), "memory") != controllers.end()) {
      limits.push_back(
          LimitOfGroup(top / "sys/fs/cgroup/memory", parts[2], "memory.limit_in_bytes"));
    }
  }
  int64_t least = 0;
  for (const std::optional<int64_t>& limit : limits) {
    if (limit && *limit > 0 && (least == 0 || *limit < least)) least = *limit;
  }
  return least;
}

}  // namespace attnd
