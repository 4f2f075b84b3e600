#include "service/machine_memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace attnd {
namespace {

// A folder that looks like a machine.
class MachineMemoryTest : public ::testing::Test {
 protected:
  MachineMemoryTest() { std::filesystem::remove_all(root_); }
  ~MachineMemoryTest() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& file, const std::string& text) {
    const std::filesystem::path path = root_ / file;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
  }
  int64_t Memory() const { return MachineMemory(root_.string()); }

  const std::filesystem::path root_ =
      absl::StrCat(::testing::TempDir(), "/machine-", static_cast<int64_t>(getpid()));
};

TEST_F(MachineMemoryTest, IsTheMachinesWithoutAControlGroup) {
  Write("proc/meminfo", "MemFree:  77 kB\nMemTotal:       2048 kB\nSwapTotal: 9 kB\n");
  EXPECT_EQ(Memory(), 2048 * 1024);
}

TEST_F(MachineMemoryTest, IsTheLeastOfTheGroupAndThoseAroundIt) {
  Write("proc/meminfo", "MemTotal: 2048 kB\n");
  Write("proc/self/cgroup", "0::/pods/one/attnd\n");
  Write("sys/fs/cgroup/pods/one/attnd/memory.max", "max\n");
  EXPECT_EQ(Memory(), 2048 * 1024);
  Write("sys/fs/cgroup/pods/one/memory.max", "5000\n");
  EXPECT_EQ(Memory(), 5000);
  Write("sys/fs/cgroup/pods/memory.max", "7000\n");
  EXPECT_EQ(Memory(), 5000);
  Write("sys/fs/cgroup/pods/one/attnd/memory.max", "4000\n");
  EXPECT_EQ(Memory(), 4000);
}

TEST_F(MachineMemoryTest, InAContainerTheTopOfTheHierarchyIsItsGroup) {
  Write("proc/meminfo", "MemTotal: 2048 kB\n");
  Write("proc/self/cgroup", "0::/\n");
  Write("sys/fs/cgroup/memory.max", "6000\n");
  EXPECT_EQ(Memory(), 6000);
}

TEST_F(MachineMemoryTest, KnowsVersionOneAndItsWayToSayNoLimit) {
  Write("proc/meminfo", "MemTotal: 2048 kB\n");
  Write("proc/self/cgroup", "3:cpu,cpuacct:/a\n7:memory:/docker/abc\n");
  Write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  EXPECT_EQ(Memory(), 2048 * 1024);
  Write("sys/fs/cgroup/memory/memory.limit_in_bytes", "3000\n");
  EXPECT_EQ(Memory(), 3000);
}

TEST_F(MachineMemoryTest, IsZeroWhereNothingCanBeRead) { EXPECT_EQ(Memory(), 0); }

TEST(MachineMemory, OfThisMachineIsThere) { EXPECT_GT(MachineMemory(), 0); }

}  // namespace
}  // namespace attnd
