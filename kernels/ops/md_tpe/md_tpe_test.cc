// What positions by decayed sums promise.
#include <cmath>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kHeight = 3, kWidth = 5, kH = 2, kD = 6, kN = kHeight * kWidth;

class MdTpeTest : public PropertyTest {
 protected:
  CallBuilder Line(const Array& x, int64_t axis) {
    return Call("md_tpe")
        .In("x", x)
        .In("q", q_.Slice(0, axis, 1))
        .In("k", k_.Slice(0, axis, 1))
        .In("log_decay", decay_.Slice(0, axis, 1));
  }
  CallBuilder Image(const Array& x) {
    return Call("md_tpe")
        .In("x", x)
        .In("q", q_)
        .In("k", k_)
        .In("log_decay", decay_)
        .Set("height", kHeight)
        .Set("width", kWidth);
  }

  const Array x_ = Normal({kB, kN, kD}), q_ = Normal({2, kD}), k_ = Normal({2, kD}),
              decay_ = Normal({2, kH});
};
INSTANTIATE_PROPERTIES(MdTpeTest);

TEST_P(MdTpeTest, IsAToeplitzMatrixForEachHead) {
  const double eps = 0.3;
  Array y(x_.shape());
  const int64_t channels = kD / kH;
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t t = 0; t < kN; ++t) {
      for (int64_t h = 0; h < kH; ++h) {
        const double decay = 1 / (1 + std::exp(-decay_(0, h)));
        double dot = 0, squares = 0;
        for (int64_t i = h * channels; i < (h + 1) * channels; ++i) dot += q_(0, i) * k_(0, i);
        for (int64_t i = h * channels; i < (h + 1) * channels; ++i) {
          for (int64_t s = 0; s <= t; ++s) {
            y(b, t, i) += dot * std::pow(decay, static_cast<double>(t - s)) * x_(b, s, i);
          }
          squares += y(b, t, i) * y(b, t, i);
        }
        for (int64_t i = h * channels; i < (h + 1) * channels; ++i) {
          y(b, t, i) /= std::sqrt(squares / static_cast<double>(channels) + eps);
        }
      }
    }
  }
  ExpectClose(Out(Line(x_, 0).Set("eps", eps), "y"), y);
  ExpectClose(Out(Line(x_, 0).Set("eps", eps).Set("width", kN), "y"), y);
}

TEST_P(MdTpeTest, AxesAdd) {
  const Array rows = Out(Line(x_.Reshape({kB * kHeight, kWidth, kD}), 1), "y");
  // The other axis as rows: tokens taken column by column.
  std::vector<int64_t> order, back(kN);
  for (int64_t j = 0; j < kWidth; ++j) {
    for (int64_t i = 0; i < kHeight; ++i) order.push_back(i * kWidth + j);
  }
  for (int64_t i = 0; i < kN; ++i) back[order[i]] = i;
  const Array columns = Out(Line(x_.Take(1, order).Reshape({kB * kWidth, kHeight, kD}), 0), "y")
                            .Reshape({kB, kN, kD})
                            .Take(1, back);
  const Array sum = rows.Reshape({kB, kN, kD}) + columns;
  ExpectClose(Out(Image(x_), "y"), sum);
  ExpectClose(Out(Image(x_).Set("residual", true), "y"), sum + x_);
}

TEST_P(MdTpeTest, IsCausalAlongEachAxis) {
  // A token in row 1, column 2 is seen by those below it in its column and right of it in its row.
  Array changed = x_;
  for (int64_t i = 0; i < kD; ++i) changed(0, 1 * kWidth + 2, i) += 1;
  const Array before = Out(Image(x_), "y"), after = Out(Image(changed), "y");
  for (int64_t row = 0; row < kHeight; ++row) {
    for (int64_t column = 0; column < kWidth; ++column) {
      const bool sees = (row == 1 && column >= 2) || (column == 2 && row >= 1);
      const int64_t at = row * kWidth + column;
      EXPECT_EQ(after(0, at, 0) != before(0, at, 0), sees) << row << "," << column;
    }
  }
}

TEST_P(MdTpeTest, AFlippedImageIsNotTheFlippedResult) {
  std::vector<int64_t> flip(kN);
  for (int64_t i = 0; i < kN; ++i) flip[i] = kN - 1 - i;
  EXPECT_GT(RelativeError(Out(Image(x_.Take(1, flip)), "y").Take(1, flip), Out(Image(x_), "y")),
            1e-2);
}

TEST_P(MdTpeTest, ProjectsEachAxis) {
  // A projection that swaps the first two channels, of one axis alone.
  Array w({2, kD, kD});
  for (int64_t i = 0; i < kD; ++i) {
    w(0, i, i < 2 ? 1 - i : i) = 1;
    w(1, i, i) = 1;
  }
  const Array w_width = w.Slice(0, 1, 1);
  const Array rows = Out(Line(x_.Reshape({kB * kHeight, kWidth, kD}), 1).In("w_o", w_width), "y")
                         .Reshape({kB, kN, kD});
  Array swapped = Out(Image(x_), "y") + rows * -1;
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t t = 0; t < kN; ++t) std::swap(swapped(b, t, 0), swapped(b, t, 1));
  }
  ExpectClose(Out(Image(x_).In("w_o", w), "y"), rows + swapped);
}

TEST_P(MdTpeTest, RefusesWhatDoesNotFit) {
  ExpectRefused(Image(x_).In("log_decay", Normal({2, 4})), "heads that divide the channels");
  ExpectRefused(Line(x_, 0).Set("height", kHeight).Set("width", kWidth), "a row for each axis");
  ExpectRefused(Image(x_).Set("width", kWidth + 1), "as many tokens as the grid has");
  ExpectRefused(Image(x_).Set("eps", -1.0), "eps: given -1");
  ExpectRefused(Line(x_, 0).Set("height", kN), "a width with a height");
}

}  // namespace
}  // namespace attnd::testing
