// What normalisation without a weight promises.
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

class SrmsnormTest : public PropertyTest {
 protected:
  CallBuilder Norm(const Array& x, const char* position) {
    return Call("srmsnorm").In("x", x).Set("eps_position", std::string(position));
  }

  const Array x_ = Normal({3, 4, 7});
};
INSTANTIATE_PROPERTIES(SrmsnormTest);

TEST_P(SrmsnormTest, RowsGetTheLengthOfTheRootOfTheirSize) {
  for (const char* position : {"inside", "outside"}) {
    const Array y = Out(Norm(x_, position).Set("eps", 0.0), "y");
    for (int64_t row = 0; row < 12; ++row) {
      const double* at = y.values().data() + row * 7;
      EXPECT_NEAR(std::sqrt(Dot(at, at, 7)), std::sqrt(7.0), 1e-5);
    }
  }
}

TEST_P(SrmsnormTest, TheScaleDoesNotMatter) {
  for (const char* position : {"inside", "outside"}) {
    ExpectClose(Out(Norm(x_ * 1000, position).Set("eps", 0.0), "y"),
                Out(Norm(x_, position).Set("eps", 0.0), "y"));
  }
}

TEST_P(SrmsnormTest, BothPositionsAgreeWithoutEps) {
  ExpectClose(Out(Norm(x_, "outside").Set("eps", 0.0), "y"),
              Out(Norm(x_, "inside").Set("eps", 0.0), "y"));
  EXPECT_GT(RelativeError(Out(Norm(x_, "outside").Set("eps", 0.5), "y"),
                          Out(Norm(x_, "inside").Set("eps", 0.5), "y")),
            1e-3);
}

TEST_P(SrmsnormTest, EveryRankIsItsRows) {
  const Array rows = Out(Norm(x_, "inside"), "y");
  for (const Dims& shape : {Dims{12, 7}, Dims{1, 3, 4, 7}, Dims{3, 1, 2, 2, 7}}) {
    const Array y = Out(Norm(x_.Reshape(shape), "inside"), "y");
    EXPECT_EQ(y.shape(), shape);
    ExpectClose(y.Reshape({3, 4, 7}), rows);
  }
  const Array first = x_.Slice(0, 0, 1).Slice(1, 0, 1).Reshape({7});
  ExpectClose(Out(Norm(first, "inside"), "y"), rows.Slice(0, 0, 1).Slice(1, 0, 1).Reshape({7}));
  EXPECT_EQ(Out(Norm(Array({0, 4, 7}), "inside"), "y").shape(), (Dims{0, 4, 7}));
}

TEST_P(SrmsnormTest, ZerosStayZerosWithEpsAndAreNotANumberWithout) {
  const Array zeros({2, 5});
  for (const char* position : {"inside", "outside"}) {
    EXPECT_EQ(Out(Norm(zeros, position), "y").values(), zeros.values());
    const Array undefined = Out(Norm(zeros, position).Set("eps", 0.0), "y");
    for (const double y : undefined.values()) {
      EXPECT_TRUE(std::isnan(y));
    }
  }
}

TEST_P(SrmsnormTest, RefusesRowsOfNothing) {
  ExpectRefused(Norm(Array({3, 0}), "inside"), "x: given a size of 0 for D");
  ExpectRefused(Norm(x_, "inside").Set("eps", -1e-6), "eps: given -1e-06");
  ExpectRefused(Norm(x_, "beside"), "eps_position: given");
  ExpectRefused(Norm(Normal({1, 1, 1, 1, 1, 3}), "inside"), "x: given [1,1,1,1,1,3]");
}

}  // namespace
}  // namespace attnd::testing
