#include "models/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>

namespace attnd::models {
namespace {

using ::testing::HasSubstr;

std::map<int32_t, double> Frequencies(const std::vector<float>& logits,
                                      const SamplingParams& params) {
  constexpr int kDraws = 20000;
  std::map<int32_t, double> counts;
  for (int i = 0; i < kDraws; ++i) {
    counts[Sample(logits, {}, params, 7, static_cast<uint64_t>(i)).token] += 1.0 / kDraws;
  }
  return counts;
}

TEST(SamplerTest, GreedyTakesTheLowestOfTheMostProbable) {
  EXPECT_EQ(Sample({1, 3, 3, 2}, {}, {}, 0, 0).token, 1);
  EXPECT_EQ(Sample({std::nanf(""), 1, 2}, {}, {}, 0, 0).token, 2);
}

TEST(SamplerTest, IsAFunctionOfSeedAndPosition) {
  std::vector<float> logits(100);
  std::mt19937 random(std::random_device{}());
  for (float& x : logits) x = std::normal_distribution<float>()(random);
  const SamplingParams params{.temperature = 1};
  int seeds = 0, positions = 0;
  for (uint64_t i = 0; i < 100; ++i) {
    const int32_t token = Sample(logits, {}, params, 5, i).token;
    EXPECT_EQ(token, Sample(logits, {}, params, 5, i).token);
    seeds += token != Sample(logits, {}, params, uint64_t{5} << 32, i).token;
    positions += token != Sample(logits, {}, params, 5, i + 1).token;
  }
  EXPECT_GT(seeds, 50);
  EXPECT_GT(positions, 50);
}

TEST(SamplerTest, DrawsByProbability) {
  const std::vector<float> logits = {0, std::log(2.0f), std::log(4.0f), std::log(1.0f)};
  const auto plain = Frequencies(logits, {.temperature = 1});
  EXPECT_NEAR(plain.at(2), 0.5, 0.02);
  EXPECT_NEAR(plain.at(1), 0.25, 0.02);
  EXPECT_NEAR(plain.at(3), 0.125, 0.02);
  const auto sharp = Frequencies(logits, {.temperature = 0.5f});
  EXPECT_NEAR(sharp.at(2), 16.0 / 22, 0.02);
}

TEST(SamplerTest, CutsKeepTheMostProbable) {
  const std::vector<float> logits = {0, std::log(2.0f), std::log(4.0f), 0};
  // Ties at the edge go to the lowest token.
  EXPECT_EQ(Frequencies(logits, {.temperature = 1, .top_k = 3}).count(3), 0u);
  EXPECT_EQ(Frequencies(logits, {.temperature = 1, .top_k = 3}).count(0), 1u);
  EXPECT_EQ(Frequencies(logits, {.temperature = 1, .top_p = 0.5f}).size(), 1u);
  EXPECT_EQ(Frequencies(logits, {.temperature = 1, .top_p = 0.51f}).size(), 2u);
  EXPECT_EQ(Frequencies(logits, {.temperature = 1, .min_p = 0.4f}).size(), 2u);
}

TEST(SamplerTest, RepetitionIsPenalisedWithinItsWindow) {
  const SamplingParams params{.repetition_penalty = 4, .repetition_window = 2};
  EXPECT_EQ(Sample({4, 3, -1}, {2, 0, 0}, params, 0, 0).token, 1);
  EXPECT_EQ(Sample({4, 3, -1}, {0, 1, 2}, params, 0, 0).token, 0);
  EXPECT_EQ(Sample({-1, -3, -5}, {0, 0}, params, 0, 0).token, 1);
}

TEST(SamplerTest, LogprobsAreTheModelsOwn) {
  const SamplingParams params{.temperature = 3, .top_k = 1, .top_logprobs = 2};
  const SampledToken sampled = Sample({0, std::log(3.0f)}, {}, params, 0, 0);
  EXPECT_EQ(sampled.token, 1);
  EXPECT_NEAR(sampled.logprob, std::log(0.75), 1e-6);
  ASSERT_EQ(sampled.top.size(), 2u);
  EXPECT_EQ(sampled.top[1].token, 0);
  EXPECT_NEAR(sampled.top[1].logprob, std::log(0.25), 1e-6);
}

TEST(SamplerTest, NamesTheParameterThatIsWrong) {
  const auto error = [](const SamplingParams& params) {
    return std::string(params.Check().message());
  };
  EXPECT_EQ(error({}), "");
  EXPECT_THAT(error({.temperature = -1}), HasSubstr("temperature: given -1, expected 0 to 100"));
  EXPECT_THAT(error({.temperature = std::nanf("")}), HasSubstr("temperature: given nan"));
  EXPECT_THAT(error({.top_p = 0}), HasSubstr("top_p: given 0"));
  EXPECT_THAT(error({.min_p = 2}), HasSubstr("min_p: given 2"));
  EXPECT_THAT(error({.repetition_penalty = 0}), HasSubstr("repetition_penalty: given 0"));
  EXPECT_THAT(error({.top_logprobs = 65}), HasSubstr("top_logprobs: given 65"));
}

}  // namespace
}  // namespace attnd::models
