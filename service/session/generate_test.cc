// What models do without sessions that stay, and how they are unloaded.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "service/session/testing/manager_test.h"

namespace attnd {
namespace {

using ::testing::HasSubstr;

class GenerateTest : public ManagerTest {
 protected:
  v1::GenerateRequest RequestOf(const std::vector<uint32_t>& tokens, uint32_t count) {
    const v1::DecodeRequest decode = DecodeOf("", count);
    v1::GenerateRequest request;
    request.set_model("gla");
    request.set_seed(1);
    request.mutable_tokens()->Assign(tokens.begin(), tokens.end());
    request.set_max_new_tokens(count);
    *request.mutable_sampling() = decode.sampling();
    *request.mutable_stop() = decode.stop();
    return request;
  }

  absl::StatusOr<v1::ScoreResponse> Score(v1::ScoreRequest request) {
    request.set_model("gla");
    return Await<v1::ScoreResponse>([&](auto done) {
      manager_->Score(
          request, [] { return false; }, std::move(done));
    });
  }

  absl::Status Unload() {
    std::promise<absl::Status> done;
    manager_->UnloadModel("gla", [&](absl::Status s) { done.set_value(std::move(s)); });
    return done.get_future().get();
  }
};

TEST_F(GenerateTest, GeneratesWhatASessionWouldAndLeavesNone) {
  const std::vector<uint32_t> prompt = Tokens(100);
  auto sink = std::make_shared<Collector>();
  manager_->Generate(RequestOf(prompt, 50), sink);
  ASSERT_TRUE(sink->Wait().ok());
  EXPECT_EQ(sink->tokens(), Straight(prompt, 50));
  EXPECT_EQ(sink->last().finish(), v1::LENGTH);
  EXPECT_EQ(sink->last().position(), 150u);
  EXPECT_EQ(manager_->usage().sessions, 1u) << "that of Straight";
}

TEST_F(GenerateTest, AClientThatVanishesLeavesNothing) {
  auto sink = std::make_shared<Collector>();
  sink->StopAfter(5);
  manager_->Generate(RequestOf(Tokens(10), 1000000), sink);
  EXPECT_EQ(sink->Wait().code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(manager_->usage().state_bytes, 0);
  EXPECT_TRUE(Unload().ok()) << "nothing runs on it";
}

TEST_F(GenerateTest, ScoresAreTheModelsOwnLogprobs) {
  const std::vector<uint32_t> prompt = Tokens(300 + random_() % 300);
  ASSERT_TRUE(Create("s").ok());
  ASSERT_TRUE(Append("s", prompt).ok());
  v1::DecodeRequest decode = DecodeOf("s", 30);
  decode.mutable_sampling()->set_top_logprobs(3);
  auto sink = std::make_shared<Collector>();
  manager_->Decode(decode, sink);
  ASSERT_TRUE(sink->Wait().ok());

  v1::ScoreRequest request;
  request.mutable_context_tokens()->Assign(prompt.begin(), prompt.end());
  const std::vector<uint32_t> sampled = sink->tokens();
  request.mutable_tokens()->Assign(sampled.begin(), sampled.end());
  request.set_top_logprobs(3);
  const auto scored = Score(request);
  ASSERT_TRUE(scored.ok()) << scored.status();
  ASSERT_EQ(scored->tokens_size(), 30);
  double total = 0;
  const std::vector<v1::SampledToken> expected = sink->samples();
  for (int i = 0; i < 30; ++i) {
    const v1::ScoredToken& token = scored->tokens(i);
    EXPECT_EQ(token.token(), sampled[static_cast<size_t>(i)]);
    EXPECT_EQ(token.logprob(), expected[static_cast<size_t>(i)].logprob()) << i;
    ASSERT_EQ(token.top_size(), 3);
    EXPECT_EQ(token.top(0).token(), expected[static_cast<size_t>(i)].top(0).token());
    total += token.logprob();
  }
  EXPECT_DOUBLE_EQ(scored->total_logprob(), total);
  EXPECT_EQ(scored->scored(), 30u);
  EXPECT_DOUBLE_EQ(scored->perplexity(), std::exp(-total / 30));

  // The same tokens without a context: all but the first have a log-probability, and those of the
  // end are those from above.
  v1::ScoreRequest whole;
  for (const uint32_t token : prompt) whole.add_tokens(token);
  for (const uint32_t token : sampled) whole.add_tokens(token);
  const auto all = Score(whole);
  ASSERT_TRUE(all.ok());
  EXPECT_FALSE(all->tokens(0).has_logprob());
  EXPECT_EQ(all->scored(), prompt.size() + 29);
  EXPECT_EQ(all->tokens(static_cast<int>(prompt.size())).logprob(), scored->tokens(0).logprob());
}

TEST_F(GenerateTest, ScoreNamesWhatIsWrong) {
  v1::ScoreRequest one;
  one.add_tokens(5);
  EXPECT_THAT(std::string(Score(one).status().message()), HasSubstr("no context"));
  v1::ScoreRequest outside;
  outside.add_tokens(96);
  outside.add_context_tokens(1);
  EXPECT_THAT(std::string(Score(outside).status().message()),
              HasSubstr("tokens: given 96, expected [0, 96)"));
  one.add_tokens(6);
  one.set_top_logprobs(65);
  EXPECT_THAT(std::string(Score(one).status().message()), HasSubstr("top_logprobs: given 65"));
  std::promise<absl::StatusOr<v1::ScoreResponse>> answer;
  v1::ScoreRequest left;
  left.set_model("gla");
  for (int i = 0; i < 1000; ++i) left.add_tokens(1);
  manager_->Score(
      left, [] { return true; }, [&](auto out) { answer.set_value(std::move(out)); });
  EXPECT_EQ(answer.get_future().get().status().code(), absl::StatusCode::kCancelled);
}

TEST_F(GenerateTest, AModelIsUnloadedWhenNothingNeedsIt) {
  const std::vector<uint32_t> prompt = Tokens(90);
  EXPECT_TRUE(Unload().ok()) << "that it is not loaded is what was asked for";
  std::promise<absl::Status> unknown;
  manager_->UnloadModel("nope", [&](absl::Status s) { unknown.set_value(std::move(s)); });
  EXPECT_EQ(unknown.get_future().get().code(), absl::StatusCode::kNotFound);

  ASSERT_TRUE(Create("s").ok());
  ASSERT_TRUE(Append("s", prompt).ok());
  auto sink = std::make_shared<Collector>();
  sink->PauseAfter(5);
  manager_->Decode(DecodeOf("s", 20), sink);
  while (sink->size() < 5) absl::SleepFor(absl::Milliseconds(1));
  const absl::Status used = Unload();
  EXPECT_EQ(used.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(used.message()), HasSubstr("session s runs on it"));
  sink->Resume();
  EXPECT_TRUE(sink->Wait().ok());
  ASSERT_TRUE(Create("n", 1, v1::NONE).ok());
  EXPECT_THAT(std::string(Unload().message()), HasSubstr("session n of durability NONE"));
  v1::DeleteSessionRequest remove;
  remove.set_session("n");
  std::promise<absl::Status> removed;
  manager_->Delete(remove, [&](absl::Status s) { removed.set_value(std::move(s)); });
  ASSERT_TRUE(removed.get_future().get().ok());

  ASSERT_TRUE(Unload().ok());
  EXPECT_EQ(table_->Find("gla"), nullptr);
  EXPECT_EQ(manager_->usage().sessions, 0u);
  std::vector<uint32_t> tokens = prompt;
  const std::vector<uint32_t> kept = sink->tokens();
  tokens.insert(tokens.end(), kept.begin(), kept.end());
  EXPECT_EQ(Decode("s", 20), Straight(tokens, 20)) << "its session brings it back";
  EXPECT_GE(RestoredFromStore(), 1);
}

}  // namespace
}  // namespace attnd
