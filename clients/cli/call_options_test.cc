#include "clients/cli/call_options.h"

#include "clients/cli/random_inputs.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace attnd::cli {
namespace {

using client::Attribute;
using ::testing::HasSubstr;

TEST(ParseAttributeTest, ReadsEveryType) {
  EXPECT_EQ(*ParseAttribute("a", "bool", "true"), Attribute(true));
  EXPECT_EQ(*ParseAttribute("a", "int", "-7"), Attribute(int64_t{-7}));
  EXPECT_EQ(*ParseAttribute("a", "float", "2"), Attribute(2.0));
  EXPECT_EQ(*ParseAttribute("a", "string", "7"), Attribute(std::string("7")));
  EXPECT_EQ(*ParseAttribute("a", "int[]", "[7, 8]"), Attribute(std::vector<int64_t>{7, 8}));
  EXPECT_EQ(*ParseAttribute("a", "int[]", "7"), Attribute(std::vector<int64_t>{7}));
  EXPECT_EQ(*ParseAttribute("a", "bool[]", "true,false"),
            Attribute(std::vector<bool>{true, false}));
  EXPECT_EQ(*ParseAttribute("a", "float[]", "[]"), Attribute(std::vector<double>{}));
}

TEST(ParseAttributeTest, SaysWhatItExpected) {
  for (const char* type : {"bool", "int", "float", "bool[]", "int[]", "float[]"}) {
    const auto value = ParseAttribute("window", type, "[x");
    EXPECT_THAT(value.status().message(), HasSubstr("--attr window")) << type;
    EXPECT_THAT(value.status().message(), HasSubstr(type));
  }
}

TEST(DrawCallTest, TakesSizesAndType) {
  const auto call = DrawCall({.op = "gla",
                              .seed = 3,
                              .dtype = v1::BFLOAT16,
                              .dims = {{"T", 9}, {"B", 2}},
                              .usual = {{"T", 512}, {"K", 16}, {"nothing", 3}}});
  ASSERT_TRUE(call.ok()) << call.status();
  const client::Tensor& q = call->inputs.at("q");
  EXPECT_EQ(q.dtype, v1::BFLOAT16);
  EXPECT_EQ(q.shape[0], 2);
  EXPECT_EQ(q.shape[1], 9);
  EXPECT_EQ(q.shape[3], 16);
  EXPECT_FALSE(call->inputs.contains("initial_state"));
}

TEST(DrawCallTest, SameSeedSameBytes) {
  const RandomRequest request{.op = "gla", .seed = 5, .with = {"initial_state"}};
  const auto a = DrawCall(request), b = DrawCall(request);
  ASSERT_TRUE(a.ok()) << a.status();
  EXPECT_EQ(a->inputs.at("q").bytes, b->inputs.at("q").bytes);
  EXPECT_TRUE(a->inputs.contains("initial_state"));
}

TEST(DrawCallTest, UnknownOperator) {
  EXPECT_EQ(DrawCall({.op = "glaa"}).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace attnd::cli
