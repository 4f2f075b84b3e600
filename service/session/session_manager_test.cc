// Sessions: exactly once, the same again after forks, rewinds, evictions and crashes.
#include "service/session/session_manager.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "service/session/testing/manager_test.h"

namespace attnd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class SessionManagerTest : public ManagerTest {};

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
  AwaitEviction();
  EXPECT_EQ(Get("s")->tier(), "store");
  EXPECT_EQ(Decode("s", 40), expected);
  EXPECT_GE(RestoredFromStore(), 1);
}

TEST_F(SessionManagerTest, AStateOfTokensThatWereTakenBackIsNotGoneOnFrom) {
  limits_.max_state_bytes = 1;
  Restart();
  const std::vector<uint32_t> first = Tokens(200), second = Tokens(150);
  ASSERT_TRUE(Create("s").ok());
  ASSERT_TRUE(Append("s", first).ok());
  AwaitEviction();
  ASSERT_TRUE(Rewind("s", 70).ok());
  ASSERT_TRUE(Append("s", second).ok());
  std::vector<uint32_t> tokens(first.begin(), first.begin() + 70);
  tokens.insert(tokens.end(), second.begin(), second.end());
  EXPECT_EQ(Decode("s", 40), Straight(tokens, 40));
}

TEST_F(SessionManagerTest, WhatARewindTookBackMayBeAppendedAgain) {
  const std::vector<uint32_t> tokens = Tokens(10);
  ASSERT_TRUE(Create("s").ok());
  ASSERT_EQ(Append("s", tokens, 0)->position(), 10u);
  ASSERT_TRUE(Rewind("s", 0, 10).ok());
  EXPECT_EQ(Rewind("s", 0, 10)->position(), 0u) << "repeated";
  const auto again = Append("s", tokens, 0);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_FALSE(again->repeated_request());
  EXPECT_EQ(Get("s")->position(), 10u);
  EXPECT_EQ(Rewind("s", 0, 10)->position(), 0u);
}

TEST_F(SessionManagerTest, ACancelledDecodeEndsWhereItIs) {
  const std::vector<uint32_t> prompt = Tokens(20);
  ASSERT_TRUE(Create("s").ok());
  ASSERT_TRUE(Append("s", prompt).ok());
  auto sink = std::make_shared<Collector>();
  sink->PauseAfter(7);
  manager_->Decode(DecodeOf("s", 50), sink);
  while (sink->size() < 7) absl::SleepFor(absl::Milliseconds(1));
  sink->Cancel();
  sink->Resume();
  EXPECT_TRUE(sink->Wait().ok());
  EXPECT_EQ(sink->last().finish(), v1::CANCELLED_BY_CLIENT);
  EXPECT_EQ(sink->tokens().size(), 7u);
  EXPECT_EQ(Get("s")->position(), 27u);
  // Before its first token.
  auto none = std::make_shared<Collector>();
  none->Cancel();
  manager_->Decode(DecodeOf("s", 50), none);
  EXPECT_TRUE(none->Wait().ok());
  EXPECT_EQ(none->tokens().size(), 0u);
  std::vector<uint32_t> tokens = prompt;
  const std::vector<uint32_t> kept = sink->tokens();
  tokens.insert(tokens.end(), kept.begin(), kept.end());
  EXPECT_EQ(Decode("s", 20), Straight(tokens, 20));
}

// Whenever its client leaves, what the decode goes on with is what it would have been.
TEST_F(SessionManagerTest, ADecodeThatWasLeftAnywhereGoesOn) {
  const std::vector<uint32_t> prompt = Tokens(3);
  const std::vector<uint32_t> expected = Straight(prompt, 200);
  for (int time = 0; time < 5; ++time) {
    const std::string id = absl::StrCat("s", time);
    ASSERT_TRUE(Create(id).ok());
    ASSERT_TRUE(Append(id, prompt).ok());
    v1::DecodeRequest request = DecodeOf(id, 200);
    request.set_expected_position(3);
    for (int leave = 0; leave < 6; ++leave) {
      auto sink = std::make_shared<Collector>();
      manager_->Decode(request, sink);
      absl::SleepFor(absl::Microseconds(random_() % 3000));
      sink->Leave();
      (void)sink->Wait();
    }
    EXPECT_EQ(Decode(request), expected);
  }
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
  sink->Resume();
  EXPECT_TRUE(sink->Wait().ok());
  EXPECT_EQ(sink->tokens().size(), 30u);
  EXPECT_EQ(sink->last().finish(), v1::LENGTH);
}

// From the last checkpoint before it, whether memory has it, or the store alone.
TEST_F(SessionManagerTest, ARewindToAnyPositionReplaysLessThanACheckpointsDistance) {
  const std::vector<uint32_t> tokens = Tokens(1500);
  ASSERT_TRUE(Create("s").ok());
  ASSERT_TRUE(Append("s", tokens).ok());
  for (size_t position = 1500; position > 40;) {
    position -= 1 + random_() % 300 % (position - 1);
    if (random_() % 2 == 0) Restart();
    ASSERT_TRUE(Rewind("s", position).ok());
    const double before = Replayed();
    const std::vector<uint32_t> sampled = Decode("s", 3);
    EXPECT_LT(Replayed() - before, limits_.anchor_every) << position;
    EXPECT_EQ(sampled,
              Straight({tokens.begin(), tokens.begin() + static_cast<int64_t>(position)}, 3))
        << position;
    ASSERT_TRUE(Rewind("s", position).ok());
  }
}

TEST_F(SessionManagerTest, AForkIsTakenBackByItsParentsCheckpoints) {
  const std::vector<uint32_t> tokens = Tokens(1500);
  ASSERT_TRUE(Create("s").ok());
  ASSERT_TRUE(Append("s", tokens).ok());
  v1::ForkRequest fork;
  fork.set_session("s");
  fork.set_new_session("f");
  fork.set_position(1400);
  fork.set_seed(1);
  ASSERT_TRUE(Await<v1::Session>([&](auto done) { manager_->Fork(fork, std::move(done)); }).ok());
  ASSERT_TRUE(Append("f", Tokens(70)).ok());
  Restart();
  ASSERT_TRUE(Rewind("f", 700).ok());
  const double before = Replayed();
  EXPECT_EQ(Decode("f", 3), Straight({tokens.begin(), tokens.begin() + 700}, 3));
  EXPECT_LT(Replayed() - before, limits_.anchor_every);
}

TEST_F(SessionManagerTest, ASessionThatNoStoreHasKeepsSomeAnchors) {
  const std::vector<uint32_t> tokens = Tokens(1500);
  ASSERT_TRUE(Create("s", 1, v1::NONE).ok());
  ASSERT_TRUE(Append("s", tokens).ok());
  ASSERT_TRUE(Rewind("s", 700).ok());
  const double before = Replayed();
  EXPECT_EQ(Decode("s", 3), Straight({tokens.begin(), tokens.begin() + 700}, 3));
  EXPECT_LT(Replayed() - before, 4 * limits_.anchor_every);
}

TEST_F(SessionManagerTest, CheckpointsAreThinnedTheFurtherBack) {
  limits_.max_checkpoints = 6;
  Restart();
  const std::vector<uint32_t> tokens = Tokens(64 * 20 + 10);
  ASSERT_TRUE(Create("s").ok());
  ASSERT_TRUE(Append("s", tokens).ok());
  ASSERT_TRUE(Get("s").ok());
  Restart();  // What was on its way to the store is there.
  const auto states = store_.ListStates("s").value();
  ASSERT_EQ(states.size(), 6u);
  EXPECT_EQ(states.back().position, 64u * 20);
  EXPECT_LE(states.front().position, 64u * 10);
  for (size_t i = 1; i + 1 < states.size(); ++i) {
    EXPECT_GE(states[i].position - states[i - 1].position,
              states.back().position - states[states.size() - 2].position);
  }
  ASSERT_TRUE(Rewind("s", 1000).ok());
  EXPECT_EQ(Decode("s", 3), Straight({tokens.begin(), tokens.begin() + 1000}, 3));
}

// States are caches: with damaged or foreign ones a session goes on from older ones, or from its
// log.
TEST_F(SessionManagerTest, DamagedStatesAreReplacedByReplaying) {
  const std::vector<uint32_t> tokens = Tokens(300);
  const std::vector<uint32_t> expected = Straight(tokens, 20);
  for (const size_t damaged : {1, 2, 5}) {
    const std::string id = absl::StrCat("s", damaged);
    ASSERT_TRUE(Create(id).ok());
    ASSERT_TRUE(Append(id, tokens).ok());
    Restart();
    auto states = store_.ListStates(id).value();
    ASSERT_EQ(states.size(), 4u);
    const uint64_t epoch = store_.Acquire(id).value();
    for (size_t i = 0; i < std::min(damaged, states.size()); ++i) {
      const SessionStore::StateInfo info = states[states.size() - 1 - i];
      SessionStore::StateInfo found;
      // Cut behind the hash of its tokens, so that it is taken for one of theirs; or as another
      // kind of device computed it.
      std::string bytes = store_.GetState(id, info.position, &found).value();
      if (i % 2 == 0) {
        bytes.resize(bytes.size() - 5);
      } else {
        const size_t magic = bytes.find("tnstate1");
        ASSERT_NE(magic, std::string::npos);
        bytes.replace(magic, 8, "ucstate1");
      }
      const absl::string_view part = bytes;
      ASSERT_TRUE(store_.PutState(id, epoch, info, {&part, 1}, Durability::kAsync).ok());
    }
    const auto corruptions = [&] { return Counted("attnd_store_corruptions_total", {}); };
    const auto foreign = [&] { return Counted("attnd_store_foreign_states_total", {}); };
    const double corruptions_before = corruptions(), foreign_before = foreign();
    EXPECT_EQ(Decode(id, 20), expected) << damaged;
    const size_t changed = std::min(damaged, states.size());
    EXPECT_EQ(corruptions() - corruptions_before, (changed + 1) / 2);
    EXPECT_EQ(foreign() - foreign_before, changed / 2);
  }
}

TEST_F(SessionManagerTest, ThereAreNoMoreSessionsThanMayBe) {
  limits_.max_sessions = 3;
  Restart();
  ASSERT_TRUE(Create("a").ok());
  ASSERT_TRUE(Create("b", 1, v1::NONE).ok());
  ASSERT_TRUE(Create("c").ok());
  const absl::Status status = Create("d").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("there are 3, at most 3 may be"));
  EXPECT_TRUE(Create("a").ok()) << "repeated";
  v1::DeleteSessionRequest request;
  request.set_session("b");
  std::promise<absl::Status> deleted;
  manager_->Delete(request, [&](absl::Status s) { deleted.set_value(std::move(s)); });
  ASSERT_TRUE(deleted.get_future().get().ok());
  ASSERT_TRUE(Create("d").ok());
  Restart();
  EXPECT_EQ(Create("e").status().code(), absl::StatusCode::kResourceExhausted);
}

// Whether memory has them or not: a process that finds them in its store knows when they end.
TEST_F(SessionManagerTest, IdleSessionsOfAnEarlierProcessEnd) {
  limits_.idle_seconds = 2;
  Restart();
  ASSERT_TRUE(Create("short").ok());
  limits_.idle_seconds = 3600;
  Restart();
  ASSERT_TRUE(Create("long").ok());
  absl::SleepFor(absl::Seconds(1.5));  // So that the store has heard of both.
  Restart();
  EXPECT_THAT(store_.List("", "", 10).value(), ElementsAre("long", "short"));
  const absl::Time end = absl::Now() + absl::Seconds(20);
  while (store_.CountSessions() > 1 && absl::Now() < end) {
    absl::SleepFor(absl::Milliseconds(20));
  }
  EXPECT_THAT(store_.List("", "", 10).value(), ElementsAre("long"));
  EXPECT_EQ(Get("short").status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(Get("long").ok());
}

// Idle sessions leave memory altogether, and come back.
TEST_F(SessionManagerTest, LogsOfIdleSessionsLeaveMemory) {
  limits_.max_state_bytes = 1 << 15;
  limits_.least_stored_tokens = 64;
  Restart();
  std::map<std::string, std::vector<uint32_t>> prompts;
  for (int i = 0; i < 20; ++i) {
    const std::string id = absl::StrCat("s", i);
    prompts[id] = Tokens(1 + random_() % 150);
    ASSERT_TRUE(Create(id).ok());
    ASSERT_TRUE(Append(id, prompts[id]).ok());
  }
  const absl::Time end = absl::Now() + absl::Seconds(20);
  while (manager_->usage().sessions > 1 && absl::Now() < end) {
    absl::SleepFor(absl::Milliseconds(20));
  }
  EXPECT_LE(manager_->usage().sessions, 1u);
  for (const auto& [id, prompt] : prompts) {
    const std::vector<SessionStore::StateInfo> states = store_.ListStates(id).value();
    for (const SessionStore::StateInfo& info : states) {
      EXPECT_GE(info.position, 64u) << "read again sooner than written";
    }
    EXPECT_EQ(Decode(id, 5), Straight(prompt, 5));
  }
}

TEST_F(SessionManagerTest, ASessionWhoseModelIsGoneIsNamedAndCanBeDeleted) {
  ASSERT_TRUE(Create("s").ok());
  manager_.reset();
  table_ = std::make_unique<ModelTable>("", RunnerOptions());
  manager_ = std::make_unique<SessionManager>(*table_, store_, metrics_, limits_);
  const absl::Status status = Get("s").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("its model is not there any more"));
  v1::DeleteSessionRequest request;
  request.set_session("s");
  std::promise<absl::Status> deleted;
  manager_->Delete(request, [&](absl::Status s) { deleted.set_value(std::move(s)); });
  EXPECT_TRUE(deleted.get_future().get().ok());
  EXPECT_EQ(Get("s").status().code(), absl::StatusCode::kNotFound);
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
  v1::AppendRequest text;
  text.set_session("s");
  text.set_text("lower case");
  EXPECT_THAT(error(Await<v1::AppendResponse>([&](auto done) {
                      manager_->Append(text, std::move(done));
                    }).status()),
              HasSubstr("text: given token 108, expected [0, 96)"));
  EXPECT_EQ(Get("s")->position(), 0u) << "nothing of it stays";
  auto sink = std::make_shared<Collector>();
  manager_->Decode(DecodeOf("s", 1), sink);
  EXPECT_THAT(error(sink->Wait()), HasSubstr("holds no token"));
  auto zero = std::make_shared<Collector>();
  manager_->Decode(DecodeOf("s", 0), zero);
  EXPECT_THAT(error(zero->Wait()), HasSubstr("max_new_tokens: given 0"));
}

}  // namespace
}  // namespace attnd
