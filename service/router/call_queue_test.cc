#include "service/router/call_queue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>
#include <vector>

namespace attnd {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

absl::Time At(int ms) { return absl::UnixEpoch() + absl::Milliseconds(ms); }

// Calls are told apart by their kernel's name.
struct Spec {
  std::string name;
  std::string key;
  uint32_t priority = 0;
  int64_t bytes = 1;
  absl::Time deadline = absl::InfiniteFuture();
  std::shared_ptr<CancelToken> cancel;
  Lane lane = Lane::kFast;
};

absl::Status Push(CallQueue& queue, const Spec& spec) {
  CallList one(1);
  QueuedCall& call = one.front();
  call.kernel = spec.name;
  call.batch_key = spec.key;
  call.priority = spec.priority;
  call.bytes = spec.bytes;
  call.deadline = spec.deadline;
  call.cancel = spec.cancel;
  call.lane = spec.lane;
  absl::Status status = queue.Push(one);
  EXPECT_EQ(one.empty(), status.ok()) << "a refused call stays with its owner";
  return status;
}

std::vector<std::string> Names(const CallList& calls) {
  std::vector<std::string> names;
  for (const QueuedCall& call : calls) names.push_back(call.kernel);
  return names;
}

std::vector<std::string> Take(CallQueue& queue, Lane lane = Lane::kFast) {
  CallList dead;
  std::vector<std::string> names = Names(queue.Take(lane, At(0), dead));
  EXPECT_THAT(dead, IsEmpty());
  return names;
}

TEST(CallQueueTest, EmptyQueueGivesNothing) {
  CallQueue queue({});
  EXPECT_THAT(Take(queue), IsEmpty());
  EXPECT_TRUE(queue.empty());
}

TEST(CallQueueTest, TakesTheOldestAndItsPartners) {
  CallQueue queue({});
  for (const char* name : {"a1", "b1", "a2", "b2", "a3"}) {
    ASSERT_TRUE(Push(queue, {.name = name, .key = std::string(1, name[0])}).ok());
  }
  EXPECT_THAT(Take(queue), ElementsAre("a1", "a2", "a3"));
  EXPECT_THAT(Take(queue), ElementsAre("b1", "b2"));
  EXPECT_THAT(Take(queue), IsEmpty());
}

TEST(CallQueueTest, CallsWithoutKeyRunAlone) {
  CallQueue queue({});
  ASSERT_TRUE(Push(queue, {.name = "a"}).ok());
  ASSERT_TRUE(Push(queue, {.name = "b"}).ok());
  EXPECT_THAT(Take(queue), ElementsAre("a"));
  EXPECT_THAT(Take(queue), ElementsAre("b"));
}

TEST(CallQueueTest, HigherPrioritiesGoFirstAndTakeLowerPartnersAlong) {
  CallQueue queue({});
  ASSERT_TRUE(Push(queue, {.name = "low", .key = "x", .priority = 0}).ok());
  ASSERT_TRUE(Push(queue, {.name = "other", .key = "y", .priority = 1}).ok());
  ASSERT_TRUE(Push(queue, {.name = "high", .key = "x", .priority = 2}).ok());
  EXPECT_THAT(Take(queue), ElementsAre("high", "low"));
  EXPECT_THAT(Take(queue), ElementsAre("other"));
}

TEST(CallQueueTest, LanesAreApart) {
  CallQueue queue({});
  ASSERT_TRUE(Push(queue, {.name = "slow", .lane = Lane::kReference}).ok());
  EXPECT_TRUE(queue.empty(Lane::kFast));
  EXPECT_THAT(Take(queue, Lane::kFast), IsEmpty());
  EXPECT_THAT(Take(queue, Lane::kReference), ElementsAre("slow"));
}

TEST(CallQueueTest, BatchesAreBoundedInCallsAndBytes) {
  CallQueue queue({.max_batch_calls = 3, .max_batch_bytes = 10});
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(Push(queue, {.name = "s", .key = "x"}).ok());
  EXPECT_EQ(Take(queue).size(), 3);
  EXPECT_EQ(Take(queue).size(), 1);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(Push(queue, {.name = "m", .key = "x", .bytes = 5}).ok());
  EXPECT_EQ(Take(queue).size(), 2);
  EXPECT_EQ(Take(queue).size(), 1);
  // A call larger than any batch runs by itself.
  ASSERT_TRUE(Push(queue, {.name = "l", .key = "x", .bytes = 100}).ok());
  ASSERT_TRUE(Push(queue, {.name = "l", .key = "x", .bytes = 100}).ok());
  EXPECT_EQ(Take(queue).size(), 1);
}

TEST(CallQueueTest, RefusesWhatDoesNotFit) {
  CallQueue queue({.max_calls = 2, .max_bytes = 10});
  ASSERT_TRUE(Push(queue, {.name = "a", .bytes = 6}).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(Push(queue, {.name = "b", .bytes = 5})));
  ASSERT_TRUE(Push(queue, {.name = "c", .bytes = 4}).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(Push(queue, {.name = "d", .bytes = 0})));
  EXPECT_THAT(Take(queue), ElementsAre("a"));
  EXPECT_EQ(queue.bytes(), 4);
  EXPECT_TRUE(Push(queue, {.name = "e", .bytes = 6}).ok());
}

TEST(CallQueueTest, LateCallsAreNotTaken) {
  CallQueue queue({});
  const auto cancel = std::make_shared<CancelToken>();
  ASSERT_TRUE(Push(queue, {.name = "late", .key = "x", .deadline = At(5)}).ok());
  ASSERT_TRUE(Push(queue, {.name = "a", .key = "x", .deadline = At(20)}).ok());
  ASSERT_TRUE(Push(queue, {.name = "gone", .key = "x", .cancel = cancel}).ok());
  ASSERT_TRUE(Push(queue, {.name = "b", .key = "x"}).ok());
  cancel->Cancel();
  CallList dead;
  EXPECT_THAT(Names(queue.Take(Lane::kFast, At(10), dead)), ElementsAre("a", "b"));
  EXPECT_THAT(Names(dead), ElementsAre("late", "gone"));
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.bytes(), 0);
}

TEST(CallQueueTest, SweepRemovesWhatIsDueAndNothingElse) {
  CallQueue queue({});
  const auto cancel = std::make_shared<CancelToken>();
  ASSERT_TRUE(Push(queue, {.name = "now", .deadline = At(5)}).ok());
  ASSERT_TRUE(Push(queue, {.name = "later", .key = "x", .deadline = At(50)}).ok());
  ASSERT_TRUE(Push(queue, {.name = "gone", .key = "x", .priority = 1, .cancel = cancel}).ok());
  EXPECT_THAT(queue.Sweep(At(4)), IsEmpty());
  EXPECT_THAT(Names(queue.Sweep(At(5))), ElementsAre("now"));
  cancel->Cancel();
  EXPECT_THAT(Names(queue.Sweep(At(6))), ElementsAre("gone"));
  EXPECT_EQ(queue.calls(), 1);
  EXPECT_THAT(Take(queue), ElementsAre("later"));
}

TEST(CallQueueTest, CountsByPriorityAndClears) {
  CallQueue queue({});
  ASSERT_TRUE(Push(queue, {.name = "a", .key = "x", .priority = 2}).ok());
  ASSERT_TRUE(Push(queue, {.name = "b", .key = "x"}).ok());
  ASSERT_TRUE(Push(queue, {.name = "c", .lane = Lane::kReference}).ok());
  EXPECT_EQ(queue.calls(0), 2);
  EXPECT_EQ(queue.calls(1), 0);
  EXPECT_EQ(queue.calls(2), 1);
  EXPECT_EQ(queue.Clear().size(), 3);
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.bytes(), 0);
  // Nothing of the old calls is remembered.
  ASSERT_TRUE(Push(queue, {.name = "d", .key = "x"}).ok());
  EXPECT_THAT(Take(queue), ElementsAre("d"));
}

}  // namespace
}  // namespace attnd
