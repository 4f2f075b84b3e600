#include "attnd/tensor.h"

#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace attnd::client {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<double> RoundTrip(DType dtype, const std::vector<float>& values) {
  const auto size = static_cast<int64_t>(values.size());
  return Tensor::FromFloats(dtype, {size}, values)->ToDoubles();
}

TEST(TensorTest, HalfRoundsToNearestEven) {
  // 1 + 2^-11 lies half way between 1 and the next half; 1 + 3 * 2^-11 half way to an even one
  // above.
  EXPECT_THAT(RoundTrip(v1::FLOAT16, {1.0f + 0x1p-11f, 1.0f + 3 * 0x1p-11f, -2.5f, 0.0f}),
              ElementsAre(1.0, 1.0 + 0x1p-9, -2.5, 0.0));
}

TEST(TensorTest, HalfKeepsSubnormalsAndOverflowsToInfinity) {
  EXPECT_THAT(RoundTrip(v1::FLOAT16, {0x1p-24f, 0x1.8p-25f, 0x1p-26f, 65504.0f, 65520.0f, -kInf}),
              ElementsAre(0x1p-24, 0x1p-24, 0.0, 65504.0, HUGE_VAL, -HUGE_VAL));
}

TEST(TensorTest, EveryHalfSurvives) {
  for (int bits = 0; bits < 0x10000; ++bits) {
    Tensor tensor{v1::FLOAT16, {1}, std::string(2, '\0')};
    const auto stored = static_cast<uint16_t>(bits);
    std::memcpy(tensor.bytes.data(), &stored, 2);
    const double value = tensor.ToDoubles()[0];
    const auto back = Tensor::FromFloats(v1::FLOAT16, {1}, {static_cast<float>(value)});
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(back->ToDoubles()[0]));
    } else {
      EXPECT_EQ(back->bytes, tensor.bytes) << bits;
    }
  }
}

TEST(TensorTest, BFloat16RoundsToNearestEven) {
  EXPECT_THAT(RoundTrip(v1::BFLOAT16, {1.0f + 0x1p-8f, 1.0f + 3 * 0x1p-8f, -3.0f, kInf}),
              ElementsAre(1.0, 1.0 + 0x1p-6, -3.0, HUGE_VAL));
  EXPECT_TRUE(std::isnan(RoundTrip(v1::BFLOAT16, {std::nanf("")})[0]));
}

TEST(TensorTest, IntegersAreNotRounded) {
  EXPECT_FALSE(Tensor::FromFloats(v1::INT32, {1}, {1.0f}).ok());
  const std::vector<int32_t> values = {1, -2, 3};
  const Tensor tensor = Tensor::Of<int32_t>({3}, values);
  EXPECT_EQ(tensor.DebugString(), "int32[3]");
  EXPECT_EQ(tensor.Values<int32_t>(), values);
  EXPECT_TRUE(tensor.Values<float>().empty());
  EXPECT_THAT(tensor.ToDoubles(), ElementsAre(1, -2, 3));
}

TEST(TensorTest, ByteSizeChecksItsProduct) {
  EXPECT_EQ(*ByteSize(v1::FLOAT64, {2, 3}), 48);
  EXPECT_EQ(*ByteSize(v1::BOOL, {}), 1);
  EXPECT_EQ(*ByteSize(v1::FLOAT32, {int64_t{1} << 62, 0, 8}), 0);
  EXPECT_THAT(ByteSize(v1::FLOAT32, {int64_t{1} << 62, 8}).status().message(),
              HasSubstr("too many"));
  EXPECT_THAT(ByteSize(v1::FLOAT32, {-1}).status().message(), HasSubstr("negative"));
  EXPECT_FALSE(ByteSize(v1::DATA_TYPE_UNSPECIFIED, {1}).ok());
}

TEST(TensorTest, NamesAndAbbreviations) {
  EXPECT_EQ(*DTypeFromName("bf16"), v1::BFLOAT16);
  EXPECT_EQ(*DTypeFromName("float64"), v1::FLOAT64);
  EXPECT_EQ(Name(v1::FLOAT16), "float16");
  EXPECT_THAT(DTypeFromName("int8").status().message(), HasSubstr("bfloat16"));
}

}  // namespace
}  // namespace attnd::client
