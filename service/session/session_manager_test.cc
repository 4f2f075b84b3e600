// Sessions: exactly once, the same again after forks, rewinds, evictions and crashes.
#include "service/session/session_manager.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <random>

#include "service/session/memory_store.h"

namespace attnd {
namespace {

using ::testing::HasSubstr;

// Collects what a decode streams; may pause or leave after some events.
class Collector final : public DecodeSink {
 public:
  Answer Event(v1::DecodeEvent event) override {
    absl::MutexLock lock(&mu_);
    events_.push_back(std::move(event));
    if (events_.size() == stop_after_) return Answer::kStop;
    if (events_.size() == pause_after_) return Answer::kPause;
    return Answer::kGoOn;
  }
  void Done(absl::Status status) override { done_.set_value(std::move(status)); }

  absl::Status Wait() { return done_.get_future().get(); }
  void StopAfter(size_t events) { stop_after_ = events; }
  void PauseAfter(size_t events) { pause_after_ = events; }
  size_t size() const {
    absl::MutexLock lock(&mu_);
    return events_.size();
  }

  std::vector<uint32_t> tokens() const {
    absl::MutexLock lock(&mu_);
    std::vector<uint32_t> tokens;
    for (const auto& event : events_) {
      for (const auto& token : event.tokens()) tokens.push_back(token.token());
    }
    return tokens;
  }
  v1::DecodeEvent last() const {
    absl::MutexLock lock(&mu_);
    return events_.back();
  }

 private:
  mutable absl::Mutex mu_;
  std::vector<v1::DecodeEvent> events_;
  size_t stop_after_ = 0, pause_after_ = 0;
  std::promise<absl::Status> done_;
};

class SessionManagerTest : public ::testing::Test {
 protected:
  SessionManagerTest() {
    std::printf("seed %u\n", seed_);
    limits_.anchor_every = 64;
    Restart();
  }

  // A new manager on the same store, as after the end of a process.
  void Restart() {
    manager_.reset();
    table_ = std::make_unique<ModelTable>(ATTND_MODEL_DATA, RunnerOptions{.step_rows = 48});
    manager_ = std::make_unique<SessionManager>(*table_, store_, limits_);
  }

  template <typename Out, typename Call>
  absl::StatusOr<Out> Await(Call call) {
    std::promise<absl::StatusOr<Out>> answer;
    call([&](absl::StatusOr<Out> out) { answer.set_value(std::move(out)); });
    return answer.get_future().get();
  }

  absl::StatusOr<v1::Session> Create(const std::string& id, uint64_t seed = 1,
                                     v1::SessionDurability durability = v1::ASYNC) {
    v1::CreateSessionRequest request;
    request.set_session(id);
    request.set_model("gla");
    request.set_seed(seed);
    request.set_durability(durability);
    return Await<v1::Session>([&](auto done) { manager_->Create(request, std::move(done)); });
  }

  absl::StatusOr<v1::Session> Get(const std::string& id) {
    v1::GetSessionRequest request;
    request.set_session(id);
    return Await<v1::Session>([&](auto done) { manager_->Get(request, std::move(done)); });
  }

  absl::StatusOr<v1::AppendResponse> Append(const std::string& id,
                                            const std::vector<uint32_t>& tokens,
                                            absl::optional<uint64_t> expected = absl::nullopt,
                                            const std::string& key = "") {
    v1::AppendRequest request;
    request.set_session(id);
    request.mutable_tokens()->Assign(tokens.begin(), tokens.end());
    if (expected.has_value()) request.set_expected_position(*expected);
    request.set_idempotency_key(key);
    return Await<v1::AppendResponse>(
        [&](auto done) { manager_->Append(request, std::move(done)); });
  }

  v1::DecodeRequest DecodeOf(const std::string& id, uint32_t count) {
    v1::DecodeRequest request;
    request.set_session(id);
    request.set_max_new_tokens(count);
    request.mutable_sampling()->set_temperature(1);
    request.mutable_stop()->set_ignore_eos(true);
    return request;
  }

  std::vector<uint32_t> Decode(const std::string& id, uint32_t count) {
    return Decode(DecodeOf(id, count));
  }
  std::vector<uint32_t> Decode(const v1::DecodeRequest& request) {
    auto sink = std::make_shared<Collector>();
    manager_->Decode(request, sink);
    const absl::Status status = sink->Wait();
    EXPECT_TRUE(status.ok()) << status;
    return sink->tokens();
  }

  std::vector<uint32_t> Tokens(size_t count) {
    std::vector<uint32_t> tokens(count);
    for (uint32_t& token : tokens) token = static_cast<uint32_t>(random_() % 96);
    return tokens;
  }

  const unsigned seed_ = std::random_device()();
  std::mt19937 random_{seed_};
  SessionLimits limits_;
  MemoryStore store_;
  std::unique_ptr<ModelTable> table_;
  std::unique_ptr<SessionManager> manager_;
};

TEST_F(SessionManagerTest, TheSameTokensHoweverTheyWereAskedFor) {
  const std::vector<uint32_t> prompt = Tokens(150);
  ASSERT_TRUE(Create("whole").ok());
  ASSERT_EQ(Append("whole", prompt)->position(), 150u);
  const std::vector<uint32_t> expected = Decode("whole", 100);
  ASSERT_EQ(expected.size(), 100u);

  ASSERT_TRUE(Create("pieces").ok());
  for (size_t at = 0; at < prompt.size();) {
    const size_t count = std::min(prompt.size() - at, 1 + random_() % 40);
    ASSERT_TRUE(Append("pieces", {prompt.begin() + static_cast<int64_t>(at),
                                  prompt.begin() + static_cast<int64_t>(at + count)})
                    .ok());
    at += count;
  }
  std::vector<uint32_t> got;
  while (got.size() < 100) {
    const auto more = Decode(
        "pieces", static_cast<uint32_t>(std::min<size_t>(100 - got.size(), 1 + random_() % 30)));
    got.insert(got.end(), more.begin(), more.end());
  }
  EXPECT_EQ(got, expected);
  ASSERT_TRUE(Create("other", 2).ok());
  ASSERT_TRUE(Append("other", prompt).ok());
  EXPECT_NE(Decode("other", 100), expected) << "another seed";
}

TEST_F(SessionManagerTest, ManyAtOnceSampleWhatEachSamplesAlone) {
  std::vector<std::vector<uint32_t>> prompts, expected;
  for (int i = 0; i < 12; ++i) {
    prompts.push_back(Tokens(1 + random_() % 100));
    const std::string id = "alone" + std::to_string(i);
    ASSERT_TRUE(Create(id, static_cast<uint64_t>(i)).ok());
    ASSERT_TRUE(Append(id, prompts.back()).ok());
    expected.push_back(Decode(id, 60));
  }
  std::vector<std::shared_ptr<Collector>> sinks;
  for (int i = 0; i < 12; ++i) {
    const std::string id = "among" + std::to_string(i);
    ASSERT_TRUE(Create(id, static_cast<uint64_t>(i)).ok());
    ASSERT_TRUE(Append(id, prompts[static_cast<size_t>(i)]).ok());
  }
  for (int i = 0; i < 12; ++i) {
    sinks.push_back(std::make_shared<Collector>());
    manager_->Decode(DecodeOf("among" + std::to_string(i), 60), sinks.back());
  }
  for (size_t i = 0; i < sinks.size(); ++i) {
    EXPECT_TRUE(sinks[i]->Wait().ok());
    EXPECT_EQ(sinks[i]->tokens(), expected[i]) << i;
  }
}

TEST_F(SessionManagerTest, RepeatedMutationsHappenOnce) {
  ASSERT_TRUE(Create("s").ok());
  EXPECT_TRUE(Create("s").ok()) << "the same request again";
  EXPECT_EQ(Create("s", 9).status().code(), absl::StatusCode::kAlreadyExists);
  const std::vector<uint32_t> first = Tokens(10), second = Tokens(5);
  ASSERT_EQ(Append("s", first, 0)->position(), 10u);
  EXPECT_EQ(Append("s", first, 0)->position(), 10u);
  EXPECT_EQ(Append("s", second, 0).status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_EQ(Append("s", second, absl::nullopt, "key")->position(), 15u);
  EXPECT_EQ(Append("s", second, absl::nullopt, "key")->position(), 15u);
  EXPECT_THAT(std::string(Append("s", first, absl::nullopt, "key").status().message()),
              HasSubstr("for another request"));
  EXPECT_THAT(std::string(Append("s", first, 3).status().message()),
              HasSubstr("expected_position: given 3, the session stands at 15"));

  v1::DecodeRequest request = DecodeOf("s", 20);
  request.set_expected_position(15);
  const std::vector<uint32_t> sampled = Decode(request);
  EXPECT_EQ(Decode(request), sampled);
  request.set_from_position(25);
  EXPECT_EQ(Decode(request), std::vector<uint32_t>(sampled.begin() + 10, sampled.end()));
  EXPECT_EQ(Get("s")->position(), 35u);
}

TEST_F(SessionManagerTest, AnotherProcessGoesOn) {
  const std::vector<uint32_t> prompt = Tokens(90);
  ASSERT_TRUE(Create("a").ok());
  ASSERT_TRUE(Append("a", prompt).ok());
  const std::vector<uint32_t> expected = Decode("a", 80);

  ASSERT_TRUE(Create("b").ok());
  ASSERT_TRUE(Append("b", prompt, 0).ok());
  v1::DecodeRequest request = DecodeOf("b", 80);
  request.set_expected_position(90);
  auto cut = std::make_shared<Collector>();
  cut->StopAfter(33);
  manager_->Decode(request, cut);
  EXPECT_EQ(cut->Wait().code(), absl::StatusCode::kCancelled);
  Restart();
  request.set_from_position(90 + 33);
  std::vector<uint32_t> got = cut->tokens();
  const std::vector<uint32_t> rest = Decode(request);
  got.insert(got.end(), rest.begin(), rest.end());
  EXPECT_EQ(got, expected);
  EXPECT_EQ(Append("b", prompt, 0)->position(), 90u) << "still repeated";
  EXPECT_EQ(Get("b")->position(), 170u);
}

TEST_F(SessionManagerTest, WhatACutDecodeLeftIsTakenBackByTheExpectedPosition) {
  const std::vector<uint32_t> prompt = Tokens(30), more = Tokens(7);
  ASSERT_TRUE(Create("s").ok());
  ASSERT_TRUE(Append("s", prompt).ok());
  auto cut = std::make_shared<Collector>();
  cut->StopAfter(10);
  manager_->Decode(DecodeOf("s", 50), cut);
  EXPECT_FALSE(cut->Wait().ok());
  ASSERT_EQ(Append("s", more, 35)->position(), 42u);
  const std::vector<uint32_t> got = Decode("s", 20);

  ASSERT_TRUE(Create("straight").ok());
  std::vector<uint32_t> tokens = prompt;
  const std::vector<uint32_t> kept = cut->tokens();
  tokens.insert(tokens.end(), kept.begin(), kept.begin() + 5);
  tokens.insert(tokens.end(), more.begin(), more.end());
  ASSERT_TRUE(Append("straight", tokens).ok());
  EXPECT_EQ(Decode("straight", 20), got);
}

TEST_F(SessionManagerTest, RewindsAndForksReachEveryPosition) {
  const std::vector<uint32_t> prompt = Tokens(300);
  ASSERT_TRUE(Create("s").ok());
  ASSERT_TRUE(Append("s", prompt).ok());
  for (const uint64_t position : {uint64_t{299}, uint64_t{200}, uint64_t{64}, uint64_t{1}}) {
    const std::string at = std::to_string(position);
    ASSERT_TRUE(Create("straight" + at).ok());
    ASSERT_TRUE(
        Append("straight" + at, {prompt.begin(), prompt.begin() + static_cast<int64_t>(position)})
            .ok());
    const std::vector<uint32_t> expected = Decode("straight" + at, 20);

    v1::ForkRequest fork;
    fork.set_session("s");
    fork.set_new_session("fork" + at);
    fork.set_position(position);
    const auto forked =
        Await<v1::Session>([&](auto done) { manager_->Fork(fork, std::move(done)); });
    ASSERT_TRUE(forked.ok()) << forked.status();
    EXPECT_EQ(forked->position(), position);
    EXPECT_EQ(forked->parent(), "s");
    EXPECT_EQ(Decode("fork" + at, 20), expected);

    v1::RewindRequest rewind;
    rewind.set_session("s");
    rewind.set_position(position);
    const auto rewound =
        Await<v1::Session>([&](auto done) { manager_->Rewind(rewind, std::move(done)); });
    ASSERT_TRUE(rewound.ok()) << rewound.status();
    EXPECT_EQ(rewound->position(), position);
    v1::ForkRequest copy = fork;
    copy.set_new_session("copy" + at);
    ASSERT_TRUE(Await<v1::Session>([&](auto done) { manager_->Fork(copy, std::move(done)); }).ok());
    EXPECT_EQ(Decode("copy" + at, 20), expected);
  }
  v1::RewindRequest rewind;
  rewind.set_session("s");
  rewind.set_position(2);
  EXPECT_EQ(Await<v1::Session>([&](auto done) { manager_->Rewind(rewind, std::move(done)); })
                .status()
                .code(),
            absl::StatusCode::kOutOfRange);
}

TEST_F(SessionManagerTest, EvictedSessionsComeBack) {
  const std::vector<uint32_t> prompt = Tokens(200);
  ASSERT_TRUE(Create("kept").ok());
  ASSERT_TRUE(Append("kept", prompt).ok());
  const std::vector<uint32_t> expected = Decode("kept", 40);
  limits_.max_state_bytes = 1;
  Restart();
  ASSERT_TRUE(Create("s").ok());
  ASSERT_TRUE(Append("s", prompt).ok());
  const absl::Time end = absl::Now() + absl::Seconds(20);
  while (manager_->usage().states > 0 && absl::Now() < end) absl::SleepFor(absl::Milliseconds(50));
  EXPECT_EQ(manager_->usage().states, 0u);
  EXPECT_EQ(Get("s")->tier(), "store");
  EXPECT_EQ(Decode("s", 40), expected);
  EXPECT_GE(manager_->usage().restored, 1u);
}

TEST_F(SessionManagerTest, ASlowReaderPausesItsDecodeAlone) {
  ASSERT_TRUE(Create("slow").ok());
  ASSERT_TRUE(Append("slow", Tokens(5)).ok());
  auto sink = std::make_shared<Collector>();
  sink->PauseAfter(10);
  manager_->Decode(DecodeOf("slow", 30), sink);
  ASSERT_TRUE(Create("quick").ok());
  ASSERT_TRUE(Append("quick", Tokens(5)).ok());
  EXPECT_EQ(Decode("quick", 50).size(), 50u);
  EXPECT_EQ(sink->size(), 10u);
  manager_->Resume("slow");
  EXPECT_TRUE(sink->Wait().ok());
  EXPECT_EQ(sink->tokens().size(), 30u);
  EXPECT_EQ(sink->last().finish(), v1::LENGTH);
}

TEST_F(SessionManagerTest, NamesWhatIsWrong) {
  v1::CreateSessionRequest create;
  create.set_model("no-such");
  const auto error = [](const absl::Status& status) { return std::string(status.message()); };
  EXPECT_THAT(error(Await<v1::Session>([&](auto done) {
                      manager_->Create(create, std::move(done));
                    }).status()),
              HasSubstr("model: given \"no-such\", known are:"));
  EXPECT_EQ(Get("nobody").status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(Create("s").ok());
  EXPECT_THAT(error(Append("s", {96}).status()), HasSubstr("tokens: given 96, expected [0, 96)"));
  EXPECT_THAT(error(Append("s", {}).status()), HasSubstr("expected one of the two"));
  auto sink = std::make_shared<Collector>();
  manager_->Decode(DecodeOf("s", 1), sink);
  EXPECT_THAT(error(sink->Wait()), HasSubstr("holds no token"));
  auto zero = std::make_shared<Collector>();
  manager_->Decode(DecodeOf("s", 0), zero);
  EXPECT_THAT(error(zero->Wait()), HasSubstr("max_new_tokens: given 0"));
}

}  // namespace
}  // namespace attnd
