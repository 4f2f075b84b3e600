#include "clients/cli/npy.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace attnd::cli {
namespace {

using ::testing::HasSubstr;

std::string File(const std::string& header, const std::string& data) {
  return absl::StrCat("\x93NUMPY", std::string("\x01\x00", 2),
                      std::string(1, static_cast<char>(header.size())), std::string(1, '\0'),
                      header, data);
}

TEST(NpyTest, EveryTypeAndRankComesBack) {
  for (const auto dtype :
       {v1::BOOL, v1::INT32, v1::INT64, v1::FLOAT16, v1::BFLOAT16, v1::FLOAT32, v1::FLOAT64}) {
    for (const std::vector<int64_t>& shape :
         {std::vector<int64_t>{}, {3}, {2, 0, 4}, {1, 2, 3, 4, 1, 1, 1, 2}}) {
      client::Tensor tensor{dtype, shape, std::string(*client::ByteSize(dtype, shape), '\x2a')};
      const std::string file = FormatNpy(tensor);
      EXPECT_EQ((file.size() - tensor.bytes.size()) % 64, 0u);
      const auto back = ParseNpy(file);
      ASSERT_TRUE(back.ok()) << back.status();
      EXPECT_EQ(back->DebugString(), tensor.DebugString());
      EXPECT_EQ(back->bytes, tensor.bytes);
    }
  }
}

TEST(NpyTest, KeysInAnyOrderAndBothQuotes) {
  const auto tensor =
      ParseNpy(File("{\"shape\":(2,),'fortran_order':False,'descr':'<i4'}\n", "abcdefgh"));
  ASSERT_TRUE(tensor.ok()) << tensor.status();
  EXPECT_EQ(tensor->DebugString(), "int32[2]");
}

struct BadFile {
  std::string header;
  std::string data;
  std::string expected;
};

TEST(NpyTest, BadFilesAreRefusedWithAReason) {
  const std::string good = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }";
  const std::vector<BadFile> files = {
      {good, "abc", "has 4 bytes, given 3"},
      {good, "abcde", "has 4 bytes, given 5"},
      {"{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }", "abcd", ">f4"},
      {"{'descr': '<u2', 'fortran_order': False, 'shape': (1,), }", "ab", "<u2"},
      {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", "abcd", "structured"},
      {"{'descr': '<f4', 'fortran_order': True, 'shape': (1,), }", "abcd", "column-major"},
      {"{'descr': '<f4', 'fortran_order': 1, 'shape': (1,), }", "abcd", "fortran_order"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': 1, }", "abcd", "tuple"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", "abcd", "no size"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }", "abcd",
       "no size"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4), }", "abcd",
       "too many"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (1 2), }", "abcd", "separated"},
      {"{'descr': '<f4', 'fortran_order': False, }", "abcd", "lacks"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x': 1}", "abcd", "unknown key"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,)", "abcd", "separated"},
      {"{'descr': '<f4", "abcd", "structured"},
      {"", "abcd", "dictionary"},
  };
  for (const BadFile& file : files) {
    EXPECT_THAT(ParseNpy(File(file.header, file.data)).status().message(), HasSubstr(file.expected))
        << file.header;
  }
}

TEST(NpyTest, EveryPrefixOfAFileIsRefused) {
  const std::string file = FormatNpy(client::Tensor{v1::FLOAT32, {2}, "abcdefgh"});
  for (size_t size = 0; size < file.size(); ++size) {
    EXPECT_FALSE(ParseNpy(absl::string_view(file).substr(0, size)).ok()) << size;
  }
}

}  // namespace
}  // namespace attnd::cli
