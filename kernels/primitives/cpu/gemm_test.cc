// The promise that determinism rests on: an element's bits depend on its row, its column and the
// depth, and on nothing of the product around it.
#include "kernels/primitives/cpu/gemm.h"

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace attnd::cpu {
namespace {

template <typename T>
class GemmTest : public ::testing::Test {
 protected:
  std::vector<T> Normal(int64_t size) {
    std::vector<T> values(static_cast<size_t>(size));
    std::normal_distribution<T> draw;
    for (T& value : values) value = draw(random_);
    return values;
  }

 private:
  std::mt19937_64 random_{std::random_device()()};
};
using Types = ::testing::Types<float, double>;
TYPED_TEST_SUITE(GemmTest, Types);

TYPED_TEST(GemmTest, BitsOfAnElementDependOnTheDepthAlone) {
  constexpr int64_t kM = 70, kN = 150;
  for (const int64_t k : {1, 5, 16, 61, 256, 300}) {
    const std::vector<TypeParam> a = this->Normal(kM * k), b = this->Normal(k * kN);
    std::vector<TypeParam> whole(kM * kN), part(kM * kN);
    Gemm(kM, kN, k, a.data(), k, b.data(), kN, whole.data(), kN, false);
    for (const int64_t m : {1, 2, 3, 5, 8, 11, 12, 13, 16, 31, 64, 66}) {
      for (const int64_t n :
           {1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 47, 64, 65, 72, 80, 81, 129, 144}) {
        Gemm(m, n, k, a.data(), k, b.data(), kN, part.data(), kN, false);
        for (int64_t row = 0; row < m; ++row) {
          ASSERT_EQ(std::memcmp(&part[row * kN], &whole[row * kN], n * sizeof(TypeParam)), 0)
              << absl::StrCat(m, " x ", n, " x ", k, ", row ", row);
        }
      }
    }
  }
}

TYPED_TEST(GemmTest, AddsToWhatIsThereAndTouchesNothingElse) {
  for (const int64_t m : {1, 5, 20}) {
    for (const int64_t n : {3, 16, 70}) {
      const int64_t k = 37, ld = n + 3;
      const std::vector<TypeParam> a = this->Normal(m * k), b = this->Normal(k * n),
                                   before = this->Normal(m * ld);
      std::vector<TypeParam> c = before;
      Gemm(m, n, k, a.data(), k, b.data(), n, c.data(), ld, true);
      for (int64_t i = 0; i < m * ld; ++i) {
        const int64_t row = i / ld, column = i % ld;
        double expected = before[i];
        for (int64_t l = 0; column < n && l < k; ++l) {
          expected += static_cast<double>(a[row * k + l]) * static_cast<double>(b[l * n + column]);
        }
        if (column >= n) {
          EXPECT_EQ(c[i], before[i]);
        } else {
          EXPECT_NEAR(c[i], expected, 1e-4);
        }
      }
    }
  }
}

}  // namespace
}  // namespace attnd::cpu
