#include "kernels/core/numerics.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace attnd {
namespace {

TEST(NumericsTest, CountsAndDistances) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Tensor result =
      HostTensor<float>({2, 3}, {1.0f, std::nextafter(2.0f, 3.0f), 3.5f, nan, inf, -4.0f});
  const Tensor reference = HostTensor<double>({2, 3}, {1, 2, 3, nan, -4, -4});
  const ErrorReport report = CompareTensors("o", result, reference);
  EXPECT_EQ(report.nan_count, 1);
  EXPECT_EQ(report.inf_count, 1);
  EXPECT_EQ(report.nonfinite_mismatch, 1);
  EXPECT_EQ(report.max_abs, 0.5);
  EXPECT_EQ(report.worst_index, (Dims{0, 2}));
  EXPECT_EQ(report.ulp_p50, 0u);
  EXPECT_GT(report.ulp_max, 1000000u);
  EXPECT_NEAR(report.relative, 0.5 / std::sqrt(1 + 4 + 9 + 16.0), 1e-6);
}

TEST(NumericsTest, ExactResults) {
  const ErrorReport report =
      CompareTensors("o", HostTensor<float>({2}, {0.0f, -1.0f}), HostTensor<double>({2}, {0, -1}));
  EXPECT_EQ(report.relative, 0);
  EXPECT_EQ(report.ulp_max, 0u);
  EXPECT_NEAR(report.cosine, 1, 1e-15);
}

TEST(NumericsTest, OneUnitInTheLastPlaceAcrossZero) {
  const float tiny = std::numeric_limits<float>::denorm_min();
  const ErrorReport report =
      CompareTensors("o", HostTensor<float>({1}, {tiny}), HostTensor<double>({1}, {-double{tiny}}));
  EXPECT_EQ(report.ulp_max, 2u);
}

}  // namespace
}  // namespace attnd
