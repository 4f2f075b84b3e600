#include "kernels/core/expression.h"

#include <map>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace attnd {
namespace {

class Names final : public Environment {
 public:
  std::map<std::string, AttrValue> values;
  std::optional<AttrValue> Lookup(absl::string_view name) const override {
    auto it = values.find(std::string(name));
    if (it == values.end()) return std::nullopt;
    return it->second;
  }
  bool Has(absl::string_view name) const override { return values.count(std::string(name)) > 0; }
};

Names Sizes() {
  Names names;
  names.values = {
      {"T", int64_t{7}}, {"K", int64_t{4}}, {"causal", true}, {"gate", std::string("log")}};
  return names;
}

TEST(ExpressionTest, Values) {
  const std::vector<std::pair<std::string, AttrValue>> cases = {
      {"1 + 2 * 3", int64_t{7}},
      {"(1 + 2) * 3", int64_t{9}},
      {"T - 1 - 1", int64_t{5}},
      {"-T % 4", int64_t{-3}},
      {"1/sqrt(K)", 0.5},
      {"7 / 2", 3.5},
      {"ceil_div(T, 2)", int64_t{4}},
      {"floor(0.3*10 + 1e-9)", int64_t{3}},
      {"floor(-1/2)", int64_t{-1}},
      {"floor(T)", int64_t{7}},
      {"max(T, K, 9)", int64_t{9}},
      {"min(T, 0.5)", 0.5},
      {"T == 7 && K < 5", true},
      {"causal -> T == K", false},
      {"!causal -> T == K", true},
      {"gate == 'log' || nothing > 1", true},
      {"has(nothing) && nothing > 1", false},
      {"has(T)", true},
      {"gate != 'softplus'", true},
  };
  for (const auto& [text, expected] : cases) {
    const auto expression = Expression::Parse(text);
    ASSERT_TRUE(expression.ok()) << text << ": " << expression.status();
    const auto value = expression->Evaluate(Sizes());
    ASSERT_TRUE(value.ok()) << text << ": " << value.status();
    EXPECT_EQ(*value, expected) << text;
  }
}

TEST(ExpressionTest, ErrorsOfParsing) {
  for (const char* text : {"", "1 +", "(1", "1)", "max()", "frob(1)", "'open", "1..2", "a b",
                           "has()", "T ==", "&& T"}) {
    EXPECT_EQ(Expression::Parse(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_FALSE(Expression::Parse(std::string(1000, '(')).ok());
  EXPECT_FALSE(Expression::Parse(std::string(1000, '!') + "T").ok());
  EXPECT_FALSE(Expression::Parse(std::string(1000, '-') + "1").ok());
  EXPECT_FALSE(Expression::Parse(std::string(5000, '1')).ok());
}

TEST(ExpressionTest, ErrorsOfEvaluation) {
  const auto code = [](const std::string& text) {
    return Expression::Parse(text)->Evaluate(Sizes()).status().code();
  };
  EXPECT_EQ(code("unknown + 1"), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(code("9223372036854775807 + T"), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(code("T / 0"), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(code("T % 0"), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(code("gate + 1"), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code("T && causal"), absl::StatusCode::kInvalidArgument);
}

TEST(ExpressionTest, LinearForms) {
  const auto linear = Expression::Parse("W-1")->AsLinear();
  ASSERT_TRUE(linear.has_value());
  EXPECT_EQ(linear->symbol, "W");
  EXPECT_EQ(linear->offset, -1);
  EXPECT_FALSE(Expression::Parse("2*W")->AsLinear().has_value());
  EXPECT_FALSE(Expression::Parse("W+K")->AsLinear().has_value());
}

}  // namespace
}  // namespace attnd
