// Sessions on operators: every append goes on where the last one ended, in every bit, whatever
// became of the states between.
#include "service/session/testing/operator_sessions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <set>

#include "kernels/core/random_call.h"

namespace attnd {
namespace {

using ::testing::HasSubstr;

TEST_F(OperatorSessionsTest, EveryOperatorWithAStateGoesOnFromIt) {
  const std::map<std::string, Attributes> chosen = [] {
    std::map<std::string, Attributes> attributes;
    for (const char* cached : {"softmax_attention", "gated_softmax_attention"}) {
      attributes[cached].Set("causal", true);
      attributes[cached].Set("cache", std::string("dense"));
    }
    attributes["flow_attention"].Set("causal", true);
    attributes["linear_attention"].Set("causal", true);
    return attributes;
  }();
  std::set<std::string> tried;
  for (const Operator* op : direct_.registry().operators()) {
    const std::string& id = op->spec.id();
    if (!op->spec.has_state()) {
      EXPECT_THAT(std::string(Make("none." + id, id).status().message()),
                  HasSubstr("which hands no state on, expected one of"));
      continue;
    }
    // An attribute that counts the tokens of a call is no session's.
    if (op->spec.FindAttribute("splits") != nullptr) continue;
    SCOPED_TRACE(id);
    RandomOptions options;
    options.seed = random_();
    if (const auto own = chosen.find(id); own != chosen.end()) options.attributes = own->second;
    options.optional_inputs = 0;
    options.dims.Set("B", 2);
    std::vector<NamedTensors> appends;
    Attributes attributes;
    for (const int64_t length : {3, 1, 5, 2}) {
      options.dims.Set("T", length);
      absl::StatusOr<CallRequest> drawn = RandomCall(*op, options);
      ASSERT_TRUE(drawn.ok()) << drawn.status();
      const absl::StatusOr<BoundCall> bound = Bind(op->spec, *drawn);
      ASSERT_TRUE(bound.ok()) << bound.status();
      for (const auto& [symbol, size] : bound->dims()) {
        const bool derived =
            std::any_of(op->spec.derived().begin(), op->spec.derived().end(),
                        [&, name = symbol](const Derived& d) { return d.symbol == name; });
        // What changes with the length of an append, or of a state.
        const bool of_weight = std::any_of(drawn->inputs.begin(), drawn->inputs.end(),
                                           [&, name = symbol](const auto& input) {
                                             const Port& port = *op->spec.FindInput(input.first);
                                             return port.AxisOf("T") < 0 && port.AxisOf(name) >= 0;
                                           });
        const bool length = std::set<std::string>{"T", "S", "S0", "M"}.count(symbol) > 0 ||
                            (symbol == "C" && !of_weight);
        if (!derived && !length && size > 0) options.dims.Set(symbol, size);
      }
      attributes = drawn->attributes;
      options.attributes = attributes;
      ++options.seed;
      appends.push_back(drawn->inputs);
    }
    const std::vector<Outputs> expected = ByHand(id, appends, attributes);
    ASSERT_EQ(expected.size(), appends.size());
    ASSERT_TRUE(Make(id, id, v1::ASYNC, attributes).ok());
    for (size_t i = 0; i < appends.size(); ++i) {
      if (i == 2) Restart();
      const auto got = Feed(id, appends[i]);
      EXPECT_EQ(Bytes(got), expected[i]) << "append " << i;
    }
    EXPECT_EQ(Get(id)->position(), 11u);
    tried.insert(id);
  }
  EXPECT_GE(tried.size(), 14u);
}

TEST_F(OperatorSessionsTest, RepeatedAppendsHappenOnce) {
  const std::vector<NamedTensors> appends = {Inputs(3), Inputs(2), Inputs(1)};
  const std::vector<Outputs> expected = ByHand("gla", appends);
  ASSERT_TRUE(Make("s").ok());
  EXPECT_TRUE(Make("s").ok()) << "the same request again";
  EXPECT_EQ(Make("s", "kda").status().code(), absl::StatusCode::kAlreadyExists);
  v1::AppendRequest first = AppendOf("s", appends[0]);
  first.set_expected_position(0);
  v1::AppendRequest second = AppendOf("s", appends[1]);
  second.set_idempotency_key("key");
  EXPECT_EQ(Bytes(Feed(first)), expected[0]);
  EXPECT_EQ(Bytes(Feed(first)), expected[0]);
  EXPECT_EQ(Bytes(Feed(second)), expected[1]);
  EXPECT_EQ(Feed(second)->position(), 5u);
  EXPECT_TRUE(Feed(second)->repeated_request());
  EXPECT_EQ(Bytes(Feed("s", appends[2])), expected[2]);
  Restart();
  EXPECT_EQ(Bytes(Feed(first)), expected[0]) << "read again from the log";
  EXPECT_EQ(Bytes(Feed(second)), expected[1]);
  EXPECT_EQ(Get("s")->position(), 6u);
  v1::AppendRequest other = AppendOf("s", appends[2]);
  other.set_expected_position(0);
  EXPECT_THAT(std::string(Feed(other).status().message()),
              HasSubstr("expected_position: given 0, the session stands at 6"));
  other.clear_expected_position();
  other.set_idempotency_key("key");
  EXPECT_THAT(std::string(Feed(other).status().message()), HasSubstr("for another request"));
}

TEST_F(OperatorSessionsTest, StatesGoToTheStoreAndComeBack) {
  std::vector<NamedTensors> appends;
  appends.reserve(12);
  for (int i = 0; i < 12; ++i) appends.push_back(Inputs(1 + static_cast<int64_t>(random_() % 4)));
  const std::vector<Outputs> expected = ByHand("gla", appends);
  limits_.max_state_bytes = 1;
  Restart();
  ASSERT_TRUE(Make("s").ok());
  for (size_t i = 0; i < appends.size(); ++i) {
    EXPECT_EQ(Bytes(Feed("s", appends[i])), expected[i]) << i;
    if (i % 4 == 1) {
      AwaitEviction();
      EXPECT_EQ(Get("s")->tier(), "store");
    }
  }
  EXPECT_GE(RestoredFromStore(), 2);
}

// States are caches: with damaged ones a session goes on from older ones, or from its log.
TEST_F(OperatorSessionsTest, DamagedStatesAreReplacedByReplaying) {
  limits_.max_state_bytes = 1;
  Restart();
  for (const size_t damaged : {1, 2, 4}) {
    const std::string id = absl::StrCat("s", damaged);
    std::vector<NamedTensors> appends;
    appends.reserve(5);
    for (int i = 0; i < 5; ++i) appends.push_back(Inputs(2));
    const std::vector<Outputs> expected = ByHand("gla", appends);
    ASSERT_TRUE(Make(id).ok());
    for (size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(Bytes(Feed(id, appends[i])), expected[i]);
      AwaitEviction();
    }
    Restart();
    const std::vector<SessionStore::StateInfo> states = store_.ListStates(id).value();
    ASSERT_EQ(states.size(), 4u);
    const uint64_t epoch = store_.Acquire(id).value();
    for (size_t i = 0; i < damaged; ++i) {
      const SessionStore::StateInfo& info = states[states.size() - 1 - i];
      SessionStore::StateInfo found;
      const std::string whole = store_.GetState(id, info.position, &found).value();
      // Behind the hash of what was read, so that it is taken for the session's.
      const absl::string_view part = absl::string_view(whole).substr(0, whole.size() - 5);
      ASSERT_TRUE(store_.PutState(id, epoch, info, {&part, 1}, Durability::kAsync).ok());
    }
    const double before = Counted("attnd_store_corruptions_total", {});
    EXPECT_EQ(Bytes(Feed(id, appends[4])), expected[4]) << damaged;
    EXPECT_EQ(Counted("attnd_store_corruptions_total", {}) - before, damaged);
  }
}

TEST_F(OperatorSessionsTest, RewindsAndForksReachTheEndsOfAppends) {
  const std::vector<NamedTensors> appends = {Inputs(3), Inputs(2), Inputs(4), Inputs(1)};
  for (const bool restart : {false, true}) {
    SCOPED_TRACE(restart);
    const std::string s = restart ? "s" : "t";
    ASSERT_TRUE(Make(s).ok());
    for (const NamedTensors& inputs : appends) ASSERT_TRUE(Feed(s, inputs).ok());
    if (restart) Restart();
    const auto mid = Rewind(s, 4);
    EXPECT_EQ(mid.status().code(), absl::StatusCode::kOutOfRange);
    EXPECT_THAT(std::string(mid.status().message()),
                HasSubstr("given 4, expected one where an append ended: the nearest are 3 and 5"));
    EXPECT_THAT(std::string(Rewind(s, 11).status().message()), HasSubstr("stands at 10"));
    const NamedTensors more = Inputs(2);
    ASSERT_TRUE(Fork(s, s + "fork", 5).ok());
    EXPECT_EQ(Get(s + "fork")->oldest_position(), 5u);
    const Outputs expected = ByHand("gla", {appends[0], appends[1], more})[2];
    EXPECT_EQ(Bytes(Feed(s + "fork", more)), expected);
    if (restart) Restart();
    EXPECT_EQ(Bytes(Feed(s + "fork", appends[0])),
              ByHand("gla", {appends[0], appends[1], more, appends[0]})[3]);
    EXPECT_THAT(std::string(Rewind(s + "fork", 3).status().message()),
                HasSubstr("history begins at 5"));
    ASSERT_EQ(Rewind(s + "fork", 5)->position(), 5u);
    EXPECT_EQ(Bytes(Feed(s + "fork", more)), expected);
    ASSERT_EQ(Rewind(s, 5)->position(), 5u);
    EXPECT_EQ(Bytes(Feed(s, more)), expected);
    if (restart) Restart();
    ASSERT_EQ(Rewind(s, 0)->position(), 0u);
    EXPECT_EQ(Bytes(Feed(s, more)), ByHand("gla", {more})[0]);
  }
}

TEST_F(OperatorSessionsTest, SnapshotsStay) {
  const std::vector<NamedTensors> appends = {Inputs(3), Inputs(2)};
  const NamedTensors more = Inputs(2);
  const Outputs expected = ByHand("gla", {appends[0], appends[1], more})[2];
  for (const auto durability : {v1::ASYNC, v1::NONE}) {
    const std::string s = "s" + std::to_string(durability);
    ASSERT_TRUE(Make(s, "gla", durability).ok());
    for (const NamedTensors& inputs : appends) ASSERT_TRUE(Feed(s, inputs).ok());
    v1::SnapshotRequest snapshot;
    snapshot.set_session(s);
    snapshot.set_snapshot("here");
    const auto taken =
        Await<v1::SnapshotInfo>([&](auto done) { manager_->Snapshot(snapshot, std::move(done)); });
    ASSERT_TRUE(taken.ok()) << taken.status();
    EXPECT_EQ(taken->position(), 5u);
    ASSERT_TRUE(Rewind(s, 3).ok());
    for (int i = 0; i < 9; ++i) ASSERT_TRUE(Feed(s, Inputs(1)).ok());
    if (durability == v1::ASYNC) Restart();
    v1::RestoreRequest restore;
    restore.set_session(s);
    restore.set_snapshot("here");
    const auto restored =
        Await<v1::Session>([&](auto done) { manager_->Restore(restore, std::move(done)); });
    ASSERT_TRUE(restored.ok()) << restored.status();
    EXPECT_EQ(restored->position(), 5u);
    EXPECT_EQ(Bytes(Feed(s, more)), expected);
  }
}

TEST_F(OperatorSessionsTest, AFileGoesOn) {
  const std::vector<NamedTensors> appends = {Inputs(3), Inputs(2)};
  Attributes attributes;
  attributes.Set("scale", 0.25);
  const std::vector<Outputs> expected = ByHand("gla", appends, attributes);
  ASSERT_TRUE(Make("s", "gla", v1::ASYNC, attributes).ok());
  ASSERT_TRUE(Feed("s", appends[0]).ok());
  v1::ExportRequest request;
  request.set_session("s");
  const auto file =
      Await<std::string>([&](auto done) { manager_->Export(request, std::move(done)); });
  ASSERT_TRUE(file.ok()) << file.status();
  const auto import = [&](std::string bytes, const std::string& id) {
    v1::ImportHeader header;
    header.set_session(id);
    return Await<v1::Session>(
        [&](auto done) { manager_->Import(header, std::move(bytes), std::move(done)); });
  };
  const auto made = import(*file, "copy");
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->op(), "gla");
  EXPECT_EQ(made->position(), 3u);
  EXPECT_EQ(made->attributes().at("scale").float_value(), 0.25);
  Restart();
  EXPECT_EQ(Bytes(Feed("copy", appends[1])), expected[1]);
  std::string damaged = *file;
  damaged[damaged.size() - 3] ^= 1;
  EXPECT_EQ(import(damaged, "damaged").status().code(), absl::StatusCode::kDataLoss);
}

TEST_F(OperatorSessionsTest, WithoutAStoreTheLastStatesAreKept) {
  std::vector<NamedTensors> appends;
  appends.reserve(9);
  for (int i = 0; i < 9; ++i) appends.push_back(Inputs(1));
  const std::vector<Outputs> expected = ByHand("gla", appends);
  ASSERT_TRUE(Make("s", "gla", v1::NONE).ok());
  for (size_t i = 0; i < appends.size(); ++i) {
    v1::AppendRequest request = AppendOf("s", appends[i]);
    request.set_expected_position(i);
    EXPECT_EQ(Bytes(Feed(request)), expected[i]);
    EXPECT_EQ(Bytes(Feed(request)), expected[i]) << "again";
  }
  const auto far = Rewind("s", 2);
  EXPECT_EQ(far.status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(std::string(far.status().message()), HasSubstr("keeps its last states alone: 0, 5"));
  ASSERT_TRUE(Rewind("s", 7).ok());
  EXPECT_EQ(Bytes(Feed("s", appends[7])), expected[7]);
}

TEST_F(OperatorSessionsTest, WhatFailsChangesNothing) {
  const std::vector<NamedTensors> appends = {Inputs(3), Inputs(2)};
  const std::vector<Outputs> expected = ByHand("gla", appends);
  ASSERT_TRUE(Make("s").ok());
  ASSERT_TRUE(Feed("s", appends[0]).ok());
  const auto refused = [&](const v1::AppendRequest& request, const char* text) {
    const auto response = Feed(request);
    EXPECT_EQ(response.status().code(), absl::StatusCode::kInvalidArgument) << response.status();
    EXPECT_THAT(std::string(response.status().message()), HasSubstr(text));
  };
  v1::AppendRequest request = AppendOf("s", appends[1]);
  (*request.mutable_inputs())["q"].set_data("short");
  refused(request, "gla: q: given 5 bytes");
  request = AppendOf("s", appends[1]);
  request.mutable_inputs()->erase("g");
  refused(request, "gla: g");
  request = AppendOf("s", appends[1]);
  request.add_outputs("p");
  refused(request, "gla: outputs: given 'p', expected of this call's: o, final_state");
  request = AppendOf("s", appends[1]);
  (*request.mutable_inputs())["initial_state"] = request.inputs().at("q");
  refused(request, "gla: initial_state: given at position 3, expected none");
  request = AppendOf("s", appends[1]);
  request.add_tokens(1);
  refused(request, "session: inputs: given tokens or text beside them");
  NamedTensors wide = Inputs(2);
  wide.Set("v", HostTensor<float>({1, 2, 2, 5}, std::vector<float>(20)));
  refused(AppendOf("s", wide), "initial_state");
  direct_.FailWith(absl::UnavailableError("no worker"));
  EXPECT_EQ(Feed("s", appends[1]).status().code(), absl::StatusCode::kUnavailable);
  direct_.FailWith(absl::OkStatus());
  EXPECT_EQ(Get("s")->position(), 3u);
  EXPECT_EQ(Bytes(Feed("s", appends[1])), expected[1]);
  auto sink = std::make_shared<Collector>();
  manager_->Decode(DecodeOf("s", 3), sink);
  EXPECT_THAT(std::string(sink->Wait().message()), HasSubstr("given one of the operator gla"));
  EXPECT_THAT(std::string(Make("t", "gal").status().message()), HasSubstr("gla"));
  Attributes wrong;
  wrong.Set("heat", 1.0);
  EXPECT_THAT(std::string(Make("t", "gla", v1::ASYNC, wrong).status().message()),
              HasSubstr("gla: heat: given as an attribute, expected one of scale"));
  ASSERT_TRUE(Create("tokens").ok());
  EXPECT_THAT(std::string(Feed("tokens", appends[0]).status().message()),
              HasSubstr("inputs: given for a language model"));
}

TEST_F(OperatorSessionsTest, StatesComeBackOnlyWhereTheyAreAskedFor) {
  ASSERT_TRUE(Make("s").ok());
  v1::AppendRequest request = AppendOf("s", Inputs(2));
  EXPECT_EQ(Bytes(Feed(request)).count("final_state"), 0u);
  request.add_outputs("final_state");
  const Outputs state = Bytes(Feed(request));
  EXPECT_EQ(state.size(), 1u);
  EXPECT_EQ(state.at("final_state").size(), 2u * 4 * 3 * sizeof(float));
}

}  // namespace
}  // namespace attnd
