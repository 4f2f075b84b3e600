#include "service/rpc/infer_parameters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace attnd {
namespace {

using testing::HasSubstr;

AttrValue Parsed(const std::string& text) {
  const absl::StatusOr<AttrValue> value = ParseJsonList("op", "list", text);
  EXPECT_TRUE(value.ok()) << value.status();
  return value.ok() ? *value : AttrValue(false);
}

TEST(ParseJsonListTest, ListsOfOneKind) {
  EXPECT_EQ(Parsed("[7, 7]"), AttrValue(std::vector<int64_t>{7, 7}));
  EXPECT_EQ(Parsed(" [ -1 ] "), AttrValue(std::vector<int64_t>{-1}));
  EXPECT_EQ(Parsed("[9223372036854775807]"), AttrValue(std::vector<int64_t>{INT64_MAX}));
  EXPECT_EQ(Parsed("[0.5, 2]"), AttrValue(std::vector<double>{0.5, 2}));
  EXPECT_EQ(Parsed("[true, false]"), AttrValue(std::vector<bool>{true, false}));
  EXPECT_EQ(Parsed("[]"), AttrValue(std::vector<int64_t>()));
}

TEST(ParseJsonListTest, RefusesEverythingElse) {
  std::vector<std::string> texts = {
      "",          "7",       "seven",      "[7, 7",      "7]",      "[7,, 7]", "[7 7]",
      "[7, true]", "['7']",   "[\"7\"]",    "[[7]]",      "[{}]",    "{}",      "{\"a\": [1]}",
      "null",      "[null]",  "[NaN]",      "[Infinity]", "[1e999]", "[7] [7]", "[7] x",
      "[0x7]",     "\"[7]\"", "[7, \"[\"]", "[1,]",       "[.5]"};
  texts.push_back(std::string(100000, '['));
  texts.push_back(std::string(50000, '[') + std::string(50000, ']'));
  texts.push_back("[" + std::string(200000, ' ') + "]");
  for (const std::string& text : texts) {
    const absl::Status status = ParseJsonList("op", "list", text).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << text.substr(0, 20) << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("op: list: given"));
    EXPECT_LT(status.message().size(), 400u);
  }
}

TEST(ParseJsonListTest, AScalarIsToldHowAListOfOneIsWritten) {
  for (const char* text : {"3", "0.5", "true"}) {
    const absl::Status status = ParseJsonList("op", "list", text).status();
    EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("given '", text, "'")));
    EXPECT_THAT(std::string(status.message()), HasSubstr("'[7]' for one"));
  }
}

TEST(ParseJsonListTest, IntegersBeyondInt64AreNumbers) {
  EXPECT_EQ(Parsed("[9223372036854775808]"), AttrValue(std::vector<double>{9223372036854775808.0}));
}

}  // namespace
}  // namespace attnd
