#include "clients/cli/safetensors.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace attnd::cli {
namespace {

using ::testing::HasSubstr;

std::string File(const std::string& header, const std::string& data) {
  std::string length(8, '\0');
  length[0] = static_cast<char>(header.size());
  return absl::StrCat(length, header, data);
}

TEST(SafetensorsTest, EveryTypeComesBack) {
  std::map<std::string, client::Tensor> tensors;
  for (const auto dtype :
       {v1::BOOL, v1::INT32, v1::INT64, v1::FLOAT16, v1::BFLOAT16, v1::FLOAT32, v1::FLOAT64}) {
    const std::string name(client::Name(dtype));
    tensors[name] = {dtype, {2, 3}, std::string(6 * client::SizeOf(dtype), name[0])};
  }
  tensors["empty"] = {v1::FLOAT32, {0, 4}, ""};
  tensors["scalar"] = {v1::FLOAT32, {}, "abcd"};
  const auto back = ParseSafetensors(FormatSafetensors(tensors));
  ASSERT_TRUE(back.ok()) << back.status();
  ASSERT_EQ(back->size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    EXPECT_EQ(back->at(name).DebugString(), tensor.DebugString());
    EXPECT_EQ(back->at(name).bytes, tensor.bytes);
  }
}

TEST(SafetensorsTest, MetadataIsNoTensor) {
  const auto tensors = ParseSafetensors(
      File(R"({"__metadata__":{"a":"b"},"q":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}})",
           "abcd"));
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  EXPECT_EQ(tensors->size(), 1u);
}

TEST(SafetensorsTest, BadFilesAreRefusedWithAReason) {
  const auto entry = [](const std::string& text) { return File("{\"q\":" + text + "}", "abcd"); };
  const std::vector<std::pair<std::string, std::string>> files = {
      {"abc", "a file of 3 bytes"},
      {std::string(8, '\xff'), "header of"},
      {std::string("\x05\0\0\0\0\0\0\0{}", 10), "header of 5"},
      {File("[]", ""), "no JSON object"},
      {File("{", ""), "no JSON object"},
      {entry("[]"), "without dtype"},
      {entry(R"({"dtype":"I8","shape":[4],"data_offsets":[0,4]})"), "I8"},
      {entry(R"({"dtype":7,"shape":[4],"data_offsets":[0,4]})"), "dtype 7"},
      {entry(R"({"dtype":"F32","shape":4,"data_offsets":[0,4]})"), "no list"},
      {entry(R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})"), "no size"},
      {entry(R"({"dtype":"F32","shape":[1.0],"data_offsets":[0,4]})"), "no size"},
      {entry(R"({"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]})"), "no size"},
      {entry(R"({"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]})"),
       "shape [4611686018427387904,4]"},
      {entry(R"({"dtype":"F32","shape":[1],"data_offsets":[0]})"), "two numbers"},
      {entry(R"({"dtype":"F32","shape":[1],"data_offsets":[0,-4]})"), "two numbers"},
      {entry(R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})"), "bytes [4, 0)"},
      {entry(R"({"dtype":"F32","shape":[1],"data_offsets":[1,5]})"), "bytes [1, 5)"},
      {entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})"), "has 8 bytes, given 4"},
  };
  for (const auto& [file, expected] : files) {
    EXPECT_THAT(ParseSafetensors(file).status().message(), HasSubstr(expected));
  }
}

}  // namespace
}  // namespace attnd::cli
