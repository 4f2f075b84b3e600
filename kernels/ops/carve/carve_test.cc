// What the contrast of two attention maps promises.
#include <algorithm>
#include <string>
#include <vector>

#include "kernels/testing/property_test.h"

namespace attnd::testing {
namespace {

constexpr int64_t kB = 2, kSteps = 3, kLayers = 4, kHeight = 5, kWidth = 6, kP = kHeight * kWidth;

class CarveTest : public PropertyTest {
 protected:
  CallBuilder Carve(const Array& task, const Array& general) const {
    return Call("carve")
        .In("attn_task", task)
        .In("attn_general", general)
        .Set("height", kHeight)
        .Set("width", kWidth)
        .Set("image_height", int64_t{13})
        .Set("image_width", int64_t{17});
  }
  // A map that is given: one step, one layer, contrasted with ones, at its own size.
  CallBuilder Given(const std::vector<std::string>& rows) const {
    Array map({1, 1, 1, kP});
    for (int64_t i = 0; i < kP; ++i) {
      const char pixel = rows[static_cast<size_t>(i / kWidth)][static_cast<size_t>(i % kWidth)];
      map(0, 0, 0, i) = pixel == '.' ? 0 : pixel - '0';
    }
    return Carve(map, Array({1, 1, 1, kP}, 1))
        .Set("lam", 0.0)
        .Set("image_height", kHeight)
        .Set("image_width", kWidth);
  }
  void ExpectMask(const CallBuilder& call, const std::vector<std::string>& rows) const {
    const Array mask = Out(call, "mask");
    for (int64_t i = 0; i < kP; ++i) {
      const char pixel = rows[static_cast<size_t>(i / kWidth)][static_cast<size_t>(i % kWidth)];
      EXPECT_EQ(mask(0, i / kWidth, i % kWidth), pixel == '#' ? 1 : 0) << i;
    }
  }

  const Array task_ = Uniform({kB, kSteps, kLayers, kP}, 0.1, 1),
              general_ = Uniform({kB, kSteps + 1, kLayers, kP}, 0.1, 1);
};
INSTANTIATE_PROPERTIES(CarveTest);

TEST_P(CarveTest, EqualMapsAreConstantAndKeepEverything) {
  const Evaluation result = Run(Carve(task_, task_).Set("lam", 0.0));
  const Array map(Output(result, "map"));
  for (const double x : map.values()) EXPECT_EQ(x, kLayers * (1 + 2 + 3));
  const Array mask(Output(result, "mask"));
  for (const double x : mask.values()) EXPECT_EQ(x, 1);
  EXPECT_EQ(Array(Output(result, "bbox")).values(),
            (std::vector<double>{0, 0, 17, 13, 0, 0, 17, 13}));
}

TEST_P(CarveTest, ACommonFactorCancels) {
  const Array factor = Uniform({kB, kSteps, kLayers, kP}, 0.5, 2);
  const Array general = general_.Slice(1, 0, kSteps);
  const Evaluation one = Run(Carve(task_, general).Set("lam", 0.0)),
                   other = Run(Carve(task_ * factor, general * factor).Set("lam", 0.0));
  ExpectClose(Array(Output(other, "map")), Array(Output(one, "map")));
}

TEST_P(CarveTest, AnImageOfTheGridIsNotResized) {
  const auto exact = [&](const char* mode) {
    return Out(Carve(task_, general_)
                   .Set("image_height", kHeight)
                   .Set("image_width", kWidth)
                   .Set("step_mode", std::string(mode)),
               "map");
  };
  const Array all = exact("all"), first = exact("first");
  for (int64_t b = 0; b < kB; ++b) {
    for (int64_t i = 0; i < kP; ++i) {
      double sum = 0;
      for (int64_t u = 0; u < kSteps; ++u) {
        double layers = 0;
        for (int64_t l = 0; l < kLayers; ++l) {
          layers += task_(b, u, l, i) / (general_(b, u, l, i) + 1e-8);
        }
        sum += static_cast<double>(u + 1) * layers;
        if (u == 0) {
          EXPECT_NEAR(first(b, i / kWidth, i % kWidth), sum, 1e-4 * sum);
        }
      }
      EXPECT_NEAR(all(b, i / kWidth, i % kWidth), sum, 1e-4 * sum);
    }
  }
}

TEST_P(CarveTest, HeadsAreAveraged) {
  const Array task = Uniform({kB, kSteps, kLayers, 3, kP}, 0.1, 1);
  Array mean({kB, kSteps, kLayers, kP});
  for (int64_t row = 0; row < kB * kSteps * kLayers; ++row) {
    for (int64_t h = 0; h < 3; ++h) {
      for (int64_t i = 0; i < kP; ++i) {
        mean.values()[row * kP + i] += task.values()[(row * 3 + h) * kP + i] / 3;
      }
    }
  }
  ExpectClose(Out(Carve(task, general_), "map"), Out(Carve(mean, general_), "map"));
}

TEST_P(CarveTest, AllLayersNamedAreTheDefault) {
  const std::vector<int64_t> all = {0, 1, 2, 3}, some = {1, 3};
  ExpectClose(Out(Carve(task_, general_).Set("layers", all), "map"),
              Out(Carve(task_, general_), "map"));
  EXPECT_GT(RelativeError(Out(Carve(task_, general_).Set("layers", some), "map"),
                          Out(Carve(task_, general_), "map")),
            0.01);
}

TEST_P(CarveTest, DiagonalNeighboursAreSeparateRegions) {
  // Six pixels at or above the threshold, in regions of one, two and three.
  const std::vector<std::string> map = {"9.....", ".11...", ".....1", ".....1", ".....1"};
  const CallBuilder call = Given(map).Set("top_percent", 0.2);
  const auto keep = [&](const char* strategy, int64_t count) {
    return CallBuilder(call).Set("strategy", std::string(strategy)).Set("min_keep_regions", count);
  };
  ExpectMask(keep("attention_sum", 1), {"#.....", "......", "......", "......", "......"});
  ExpectMask(keep("attention_sum", 2), {"#.....", "......", ".....#", ".....#", ".....#"});
  ExpectMask(keep("size", 1), {"......", "......", ".....#", ".....#", ".....#"});
  ExpectMask(keep("size", 2), {"......", ".##...", ".....#", ".....#", ".....#"});
  ExpectMask(keep("size", 3), {"#.....", ".##...", ".....#", ".....#", ".....#"});
  // int(6 * 40 / 100) = 2 pixels at least.
  ExpectMask(keep("remove_small", 1).Set("outlier_percent", 40.0),
             {"......", ".##...", ".....#", ".....#", ".....#"});
  EXPECT_EQ(Out(keep("size", 2), "bbox").values(), (std::vector<double>{1, 1, 6, 5}));
  EXPECT_EQ(Out(keep("attention_sum", 1), "bbox").values(), (std::vector<double>{0, 0, 1, 1}));
  // Every region is below the limit: the whole image.
  const CallBuilder nothing = keep("remove_small", 1).Set("outlier_percent", 100.0);
  ExpectMask(nothing, {"......", "......", "......", "......", "......"});
  EXPECT_EQ(Out(nothing, "bbox").values(), (std::vector<double>{0, 0, 6, 5}));
}

TEST_P(CarveTest, OfEqualRegionsTheFirstStays) {
  const std::vector<std::string> map = {"1.1.1.", "......", "1.1.1.", "......", "......"};
  ExpectMask(Given(map).Set("min_keep_regions", int64_t{2}),
             {"#.#...", "......", "......", "......", "......"});
}

TEST_P(CarveTest, TheBoxIsTight) {
  const Evaluation result = Run(Carve(task_, general_));
  const Array mask(Output(result, "mask")), box(Output(result, "bbox"));
  for (int64_t b = 0; b < kB; ++b) {
    int64_t x0 = 17, y0 = 13, x1 = 0, y1 = 0;
    for (int64_t y = 0; y < 13; ++y) {
      for (int64_t x = 0; x < 17; ++x) {
        if (mask(b, y, x) == 0) continue;
        x0 = std::min(x0, x);
        y0 = std::min(y0, y);
        x1 = std::max(x1, x + 1);
        y1 = std::max(y1, y + 1);
      }
    }
    EXPECT_TRUE(box(b, 0) == x0 && box(b, 1) == y0 && box(b, 2) == x1 && box(b, 3) == y1);
  }
}

TEST_P(CarveTest, RefusesMapsThatDoNotFit) {
  const CallBuilder good = Carve(task_, general_);
  ExpectRefused(CallBuilder(good).Set("height", int64_t{4}), "height * width image tokens");
  ExpectRefused(CallBuilder(good).Set("image_height", int64_t{4}), "an image of at least the grid");
  ExpectRefused(CallBuilder(good).Set("layers", std::vector<int64_t>{4}), "layers: given [4]");
  ExpectRefused(CallBuilder(good).Set("layers", std::vector<int64_t>{-1}), "layers");
  ExpectRefused(CallBuilder(good).Set("layers", std::vector<int64_t>{}), "layers");
  ExpectRefused(CallBuilder(good).Set("lam", -1.0), "lam: given -1");
  ExpectRefused(CallBuilder(good).Set("top_percent", 0.0), "top_percent: given 0");
  ExpectRefused(CallBuilder(good).Set("top_percent", 1.0), "top_percent: given 1");
  ExpectRefused(CallBuilder(good).Set("min_keep_regions", int64_t{0}), "min_keep_regions: given 0");
  ExpectRefused(Carve(Array({kB, 0, kLayers, kP}), general_), "attn_task: given a size of 0 for U");
  ExpectRefused(Carve(task_, Array({kB, 0, kLayers, kP})),
                "attn_general: given a size of 0 for U2");
  ExpectRefused(Carve(task_, general_.Slice(2, 0, 2)), "attn_general: given");
  ExpectRefused(Carve(task_, general_.Slice(0, 0, 1)), "attn_general: given");
}

}  // namespace
}  // namespace attnd::testing
