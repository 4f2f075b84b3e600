#include "clients/cli/tensor_files.h"

#include <fstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace attnd::cli {
namespace {

using ::testing::HasSubstr;

std::string Path(const std::string& name) { return absl::StrCat(::testing::TempDir(), "/", name); }

Tensors Some() {
  return {{"o", {v1::FLOAT32, {2}, "abcdefgh"}}, {"state", {v1::BFLOAT16, {1, 1}, "ab"}}};
}

TEST(TensorFilesTest, NamedTensorsComeBack) {
  for (const char* name : {"t.npz", "t.safetensors"}) {
    const std::string path = Path(name);
    // Twice: what was there is replaced.
    ASSERT_TRUE(WriteTensors(path, {{"other", Some()["o"]}}).ok());
    ASSERT_TRUE(WriteTensors(path, Some()).ok());
    const auto back = ReadTensors(path);
    ASSERT_TRUE(back.ok()) << back.status();
    ASSERT_EQ(back->size(), 2u);
    EXPECT_EQ(back->at("o").bytes, "abcdefgh");
    EXPECT_EQ(back->at("state").DebugString(), "bfloat16[1,1]");
  }
}

TEST(TensorFilesTest, NpyHoldsOne) {
  const std::string path = Path("t.npy");
  EXPECT_THAT(WriteTensors(path, Some()).message(), HasSubstr("one tensor, given 2"));
  ASSERT_TRUE(WriteTensors(path, {{"o", Some()["o"]}}).ok());
  const auto back = ReadTensor(path);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->bytes, "abcdefgh");
}

TEST(TensorFilesTest, ErrorsNameTheFile) {
  EXPECT_EQ(ReadTensor(Path("none.npy")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(ReadTensor("a.txt").status().message(), HasSubstr("a.txt: expected a .npy"));
  EXPECT_THAT(ReadTensors("a.npy").status().message(), HasSubstr(".npz or .safetensors"));
  EXPECT_THAT(WriteTensors("a.txt", Some()).message(), HasSubstr(".npz"));
  for (const char* name : {"bad.npz", "bad.safetensors"}) {
    std::ofstream(Path(name)) << "not what it says";
    EXPECT_THAT(ReadTensors(Path(name)).status().message(), HasSubstr(name));
  }
}

}  // namespace
}  // namespace attnd::cli
