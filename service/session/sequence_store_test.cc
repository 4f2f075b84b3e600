#include "service/session/sequence_store.h"

#include <gtest/gtest.h>

#include <atomic>
#include <optional>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace attnd {
namespace {

using Turn = SequenceStore::Turn;

NamedTensors State(float value, int64_t size = 1) {
  NamedTensors states;
  const std::vector<float> values(static_cast<size_t>(size), value);
  states.Set("initial_state", HostTensor<float>({size}, values));
  return states;
}

float ValueOf(const Turn& turn) {
  const Tensor* state = turn.states().Find("initial_state");
  return state == nullptr ? -1 : state->data<float>()[0];
}

// A turn that comes at once.
absl::StatusOr<Turn> EnterNow(SequenceStore& store, absl::string_view id, bool start) {
  std::optional<absl::StatusOr<Turn>> result;
  store.Enter("op", id, start, [&](absl::StatusOr<Turn> turn) { result.emplace(std::move(turn)); });
  EXPECT_TRUE(result.has_value());
  return std::move(*result);
}

TEST(SequenceStoreTest, KeepsStatesBetweenCalls) {
  SequenceStore store({});
  {
    auto turn = EnterNow(store, "a", true);
    ASSERT_TRUE(turn.ok());
    EXPECT_TRUE(turn->states().empty());
    EXPECT_TRUE(turn->Commit(State(5), false).ok());
  }
  {
    auto turn = EnterNow(store, "a", false);
    ASSERT_TRUE(turn.ok());
    EXPECT_EQ(ValueOf(*turn), 5);
    EXPECT_TRUE(turn->Commit(State(6), true).ok());
  }
  EXPECT_TRUE(absl::IsInvalidArgument(EnterNow(store, "a", false).status()));
  EXPECT_EQ(store.usage().sequences, 0u);
  EXPECT_EQ(store.usage().bytes, 0);
}

TEST(SequenceStoreTest, UnknownSequenceIsNamed) {
  SequenceStore store({});
  const absl::Status status = EnterNow(store, "nobody", false).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_NE(status.message().find("nobody"), absl::string_view::npos);
  EXPECT_EQ(store.usage().sequences, 0u);
}

TEST(SequenceStoreTest, OperatorsDoNotShareSequences) {
  SequenceStore store({});
  store.Enter("one", "a", true, [](auto turn) { EXPECT_TRUE(turn->Commit(State(1), false).ok()); });
  store.Enter("two", "a", false,
              [](auto turn) { EXPECT_TRUE(absl::IsInvalidArgument(turn.status())); });
}

TEST(SequenceStoreTest, AFailedCallChangesNothing) {
  SequenceStore store({});
  { EXPECT_TRUE(EnterNow(store, "a", true).ok()); }  // Started, never committed.
  EXPECT_EQ(store.usage().sequences, 0u);
  { EXPECT_TRUE(EnterNow(store, "a", true)->Commit(State(1), false).ok()); }
  { EXPECT_TRUE(EnterNow(store, "a", false).ok()); }
  { EXPECT_TRUE(EnterNow(store, "a", true).ok()); }  // Not even a failed start.
  EXPECT_EQ(ValueOf(*EnterNow(store, "a", false)), 1);
}

TEST(SequenceStoreTest, StartBeginsAnew) {
  SequenceStore store({});
  { EXPECT_TRUE(EnterNow(store, "a", true)->Commit(State(1), false).ok()); }
  {
    auto turn = EnterNow(store, "a", true);
    EXPECT_TRUE(turn->states().empty());
    EXPECT_TRUE(turn->Commit(State(2), false).ok());
  }
  EXPECT_EQ(ValueOf(*EnterNow(store, "a", false)), 2);
  EXPECT_EQ(store.usage().sequences, 1u);
  EXPECT_EQ(store.usage().bytes, 4);
}

TEST(SequenceStoreTest, CallsOfOneSequenceTakeTurns) {
  SequenceStore store({.max_waiting = 2});
  std::optional<Turn> first = *EnterNow(store, "a", true);
  std::vector<int> order;
  std::optional<Turn> second;
  store.Enter("op", "a", false, [&](absl::StatusOr<Turn> turn) {
    order.push_back(2);
    ASSERT_TRUE(turn.ok());
    second.emplace(*std::move(turn));
  });
  store.Enter("op", "a", false, [&](absl::StatusOr<Turn> turn) {
    order.push_back(3);
    EXPECT_TRUE(absl::IsInvalidArgument(turn.status()));  // The second one ended it.
  });
  EXPECT_TRUE(absl::IsResourceExhausted(EnterNow(store, "a", false).status()));
  EXPECT_TRUE(order.empty());
  EXPECT_TRUE(first->Commit(State(1), false).ok());
  first.reset();
  ASSERT_EQ(order, std::vector<int>{2});
  EXPECT_EQ(ValueOf(*second), 1);
  EXPECT_TRUE(second->Commit({}, true).ok());
  second.reset();
  EXPECT_EQ(order, (std::vector<int>{2, 3}));
  EXPECT_EQ(store.usage().sequences, 0u);
}

TEST(SequenceStoreTest, AWaiterWhoseStartFailedIsToldSo) {
  SequenceStore store({});
  std::optional<Turn> first = *EnterNow(store, "a", true);
  absl::Status told;
  store.Enter("op", "a", false, [&](absl::StatusOr<Turn> turn) { told = turn.status(); });
  first.reset();
  EXPECT_TRUE(absl::IsInvalidArgument(told));
  EXPECT_EQ(store.usage().sequences, 0u);
}

TEST(SequenceStoreTest, NumberOfSequencesIsBounded) {
  SequenceStore store({.max_sequences = 2});
  for (const char* id : {"a", "b"}) {
    EXPECT_TRUE(EnterNow(store, id, true)->Commit(State(1), false).ok());
  }
  EXPECT_TRUE(absl::IsResourceExhausted(EnterNow(store, "c", true).status()));
  EXPECT_TRUE(EnterNow(store, "a", true).ok());
  EXPECT_TRUE(EnterNow(store, "a", false)->Commit({}, true).ok());
  EXPECT_TRUE(EnterNow(store, "c", true).ok());
}

TEST(SequenceStoreTest, BytesAreBounded) {
  SequenceStore store({.max_bytes = 100});
  EXPECT_TRUE(EnterNow(store, "a", true)->Commit(State(1, 20), false).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(EnterNow(store, "b", true)->Commit(State(1, 6), false)));
  EXPECT_TRUE(absl::IsResourceExhausted(EnterNow(store, "a", false)->Commit(State(2, 26), false)));
  EXPECT_EQ(ValueOf(*EnterNow(store, "a", false)), 1);  // As it was.
  EXPECT_TRUE(EnterNow(store, "a", false)->Commit(State(2, 25), false).ok());
  EXPECT_EQ(store.usage().bytes, 100);
}

TEST(SequenceStoreTest, IdleSequencesEndByThemselves) {
  SequenceStore store({.idle = absl::Milliseconds(50)});
  {
    auto held = EnterNow(store, "a", true);  // One in use is not idle.
    EXPECT_TRUE(held->Commit(State(1), false).ok());
    absl::SleepFor(absl::Milliseconds(150));
    EXPECT_EQ(store.usage().sequences, 1u);
  }
  for (int i = 0; i < 1000 && store.usage().sequences > 0; ++i) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_EQ(store.usage().sequences, 0u);
  EXPECT_EQ(store.usage().bytes, 0);
  EXPECT_EQ(store.usage().expired, 1u);
  EXPECT_TRUE(absl::IsInvalidArgument(EnterNow(store, "a", false).status()));
}

TEST(SequenceStoreTest, ManyThreadsCountTogether) {
  SequenceStore store({.max_waiting = 1000});
  EXPECT_TRUE(EnterNow(store, "a", true)->Commit(State(0), false).ok());
  std::atomic<int> answered{0};
  std::vector<std::thread> threads;
  threads.reserve(4);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) {
        store.Enter("op", "a", false, [&](absl::StatusOr<Turn> turn) {
          ASSERT_TRUE(turn.ok());
          EXPECT_TRUE(turn->Commit(State(ValueOf(*turn) + 1), false).ok());
          ++answered;
        });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(answered, 400);
  EXPECT_EQ(ValueOf(*EnterNow(store, "a", false)), 400);
}

}  // namespace
}  // namespace attnd
