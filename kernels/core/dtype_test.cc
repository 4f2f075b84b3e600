#include "kernels/core/dtype.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace attnd {
namespace {

TEST(DTypeTest, NamesComeBack) {
  for (DType dtype : {DType::kBool, DType::kInt32, DType::kInt64, DType::kFloat16, DType::kBFloat16,
                      DType::kFloat32, DType::kFloat64}) {
    EXPECT_EQ(DTypeFromName(Name(dtype)), dtype);
  }
  EXPECT_EQ(DTypeFromName("float8"), std::nullopt);
}

TEST(DTypeTest, EveryHalfSurvivesTheWayThroughFloat) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const Half half{static_cast<uint16_t>(bits)};
    const float value = ToFloat(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(ToFloat(ToHalf(value))));
    } else {
      EXPECT_EQ(ToHalf(value).bits, bits);
    }
  }
}

TEST(DTypeTest, HalvesRoundToNearestEven) {
  EXPECT_EQ(ToFloat(ToHalf(2049.0f)), 2048.0f);  // Halfway, to even.
  EXPECT_EQ(ToFloat(ToHalf(2051.0f)), 2052.0f);
  EXPECT_EQ(ToFloat(ToHalf(65519.0f)), 65504.0f);
  EXPECT_TRUE(std::isinf(ToFloat(ToHalf(65520.0f))));
  EXPECT_EQ(ToFloat(ToHalf(0x1p-25f)), 0.0f);
  EXPECT_EQ(ToFloat(ToHalf(0x1.8p-25f)), 0x1p-24f);
}

TEST(DTypeTest, BFloat16RoundsToNearestEvenAndKeepsNan) {
  EXPECT_EQ(ToFloat(ToBFloat16(257.0f)), 256.0f);
  EXPECT_EQ(ToFloat(ToBFloat16(259.0f)), 260.0f);
  EXPECT_TRUE(std::isnan(ToFloat(ToBFloat16(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_TRUE(std::isinf(ToFloat(ToBFloat16(std::numeric_limits<float>::max()))));
}

}  // namespace
}  // namespace attnd
