// Operators' sessions that read without end: what they keep is bounded, and what they answer is
// what it would be had they kept all.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>

#include "service/session/redis_store.h"
#include "service/session/rocksdb_store.h"
#include "service/session/testing/operator_sessions.h"
#include "service/session/testing/redis_server.h"

namespace attnd {
namespace {

using ::testing::HasSubstr;
namespace fs = std::filesystem;

enum class Kind { kMemory, kRocksDb, kRedis };

// A position of one append takes about 150 bytes of the log.
class SessionTrimsTest : public OperatorSessionsTest, public ::testing::WithParamInterface<Kind> {
 protected:
  static constexpr uint64_t kKept = 8000;

  void SetUp() override {
    if (GetParam() == Kind::kRocksDb) {
      own_ = RocksDbStore::Open({.folder = folder_}).value();
    } else if (GetParam() == Kind::kRedis) {
      if (!RedisServer::Installed()) GTEST_SKIP() << RedisServer::kMissing;
      server_ = std::make_unique<RedisServer>();
      own_ = RedisStore::Open({.address = server_->address()}).value();
    }
    if (own_ != nullptr) kept_ = own_.get();
    limits_.max_log_bytes = kKept;
    Restart();
  }
  ~SessionTrimsTest() override {
    manager_.reset();
    own_.reset();
    fs::remove_all(folder_);
  }

  // Feeds random inputs, which are kept with what they must give.
  void FeedMore(const std::string& id, int count) {
    for (int i = 0; i < count; ++i) {
      fed_.push_back(Inputs(1 + static_cast<int64_t>(random_() % 3)));
      const auto response = Feed(id, fed_.back());
      ASSERT_TRUE(response.ok()) << response.status();
      ends_.push_back(response->position());
      got_.push_back(Bytes(response));
    }
  }

  uint64_t LogBytes(const std::string& id) {
    uint64_t bytes = 0;
    const auto records = kept_->ReadLog(id).value();
    for (const auto& record : records) bytes += record.bytes.size();
    return bytes;
  }

  // The last end before the session's history.
  size_t Oldest(const std::string& id) {
    const uint64_t oldest = Get(id)->oldest_position();
    size_t i = 0;
    while (i < ends_.size() && ends_[i] < oldest) ++i;
    EXPECT_LT(i, ends_.size());
    EXPECT_EQ(ends_[i], oldest) << "where an append ended";
    return i;
  }

  v1::SnapshotRequest SnapshotOf(const std::string& id, const std::string& name) {
    v1::SnapshotRequest request;
    request.set_session(id);
    request.set_snapshot(name);
    return request;
  }
  absl::StatusOr<v1::SnapshotInfo> TakeSnapshot(const std::string& id, const std::string& name) {
    return Await<v1::SnapshotInfo>(
        [&](auto done) { manager_->Snapshot(SnapshotOf(id, name), std::move(done)); });
  }
  absl::StatusOr<v1::Session> GoTo(const std::string& id, const std::string& name) {
    v1::RestoreRequest request;
    request.set_session(id);
    request.set_snapshot(name);
    return Await<v1::Session>([&](auto done) { manager_->Restore(request, std::move(done)); });
  }

  const std::string folder_ =
      ::testing::TempDir() + "/attnd_trims_" + std::to_string(std::random_device()());
  std::unique_ptr<RedisServer> server_;
  std::unique_ptr<SessionStore> own_;
  std::vector<NamedTensors> fed_;
  std::vector<uint64_t> ends_;
  std::vector<Outputs> got_;
};

TEST_P(SessionTrimsTest, AStreamWithoutEndTakesBoundedRoom) {
  for (const auto durability : {v1::ASYNC, v1::SYNC}) {
    const std::string s = absl::StrCat("s", static_cast<int>(durability));
    fed_.clear(), ends_.clear(), got_.clear();
    ASSERT_TRUE(Make(s, "gla", durability).ok());
    uint64_t last = 0;
    for (int round = 0; round < 12; ++round) {
      FeedMore(s, 40);
      const uint64_t oldest = Get(s)->oldest_position();
      EXPECT_GE(oldest, last);
      last = oldest;
      // A quarter more, the requests that may be repeated, and the first record's steps.
      EXPECT_LT(LogBytes(s), kKept * 5 / 4 + 480 * 40 + 4000) << round;
      EXPECT_LE(kept_->ListStates(s)->size(), 4u + 5);
      if (round % 3 == 1) Restart();
      EXPECT_EQ(Get(s)->oldest_position(), oldest);
    }
    EXPECT_GT(last, 0u);
    EXPECT_EQ(got_, ByHand("gla", fed_));
    EXPECT_GT(Counted("attnd_session_trims_total", {}), 3);
  }
}

TEST_P(SessionTrimsTest, WhatIsKeptIsReachedAndWhatIsNotIsRefused) {
  ASSERT_TRUE(Make("s").ok());
  fed_.push_back(Inputs(2));
  v1::AppendRequest keyed = AppendOf("s", fed_.back());
  keyed.set_idempotency_key("first");
  const auto first = Feed(keyed);
  ASSERT_TRUE(first.ok());
  ends_.push_back(2), got_.push_back(Bytes(first));
  FeedMore("s", 90);
  for (const bool restart : {false, true}) {
    SCOPED_TRACE(restart);
    if (restart) Restart();
    const size_t oldest = Oldest("s");
    ASSERT_GT(oldest, 4u);
    const std::string nearest = absl::StrCat(
        "position: given ", ends_[oldest - 2], ", the session's history begins at ", ends_[oldest],
        ": the nearest are ", ends_[oldest], " and ", ends_[oldest + 1]);
    const auto refused = [&](const absl::Status& status, const std::string& text) {
      EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange) << status;
      EXPECT_THAT(std::string(status.message()), HasSubstr(text));
    };
    refused(Rewind("s", ends_[oldest - 2]).status(), nearest);
    refused(Fork("s", absl::StrCat("fork", restart), ends_[oldest - 2]).status(), nearest);
    refused(Feed(keyed).status(), "position: given 0, the session's history begins at");
    v1::AppendRequest again = AppendOf("s", fed_[oldest - 1]);
    again.set_expected_position(ends_[oldest - 2]);
    refused(Feed(again).status(), nearest);
    // Everything else is there, from the oldest on.
    for (size_t i = oldest; i < ends_.size(); i += 7) {
      const std::string fork = absl::StrCat("fork", restart, i);
      ASSERT_TRUE(Fork("s", fork, ends_[i]).ok()) << ends_[i];
      if (i + 1 == fed_.size()) break;
      EXPECT_EQ(Bytes(Feed(fork, fed_[i + 1])), got_[i + 1]);
    }
    again = AppendOf("s", fed_.back());
    again.set_expected_position(ends_[ends_.size() - 2]);
    const auto repeated = Feed(again);
    EXPECT_EQ(repeated.status().code(), absl::StatusCode::kFailedPrecondition)
        << "it began without a position";
  }
  const size_t oldest = Oldest("s");
  ASSERT_TRUE(Rewind("s", ends_[oldest]).ok());
  EXPECT_EQ(Bytes(Feed("s", fed_[oldest + 1])), got_[oldest + 1]);
}

TEST_P(SessionTrimsTest, TheLastAppendsCanBeRepeated) {
  limits_.max_log_bytes = 1;
  Restart();
  ASSERT_TRUE(Make("s").ok());
  uint64_t position = 0;
  for (int i = 0; i < 12; ++i) {
    const NamedTensors inputs = Inputs(2);
    v1::AppendRequest request = AppendOf("s", inputs);
    request.set_expected_position(position);
    const auto response = Feed(request);
    const Outputs answer = Bytes(response);
    if (i % 4 == 2) Restart();
    const auto again = Feed(request);
    EXPECT_EQ(Bytes(again), answer) << i;
    EXPECT_TRUE(again.ok() && again->repeated_request());
    position = response->position();
  }
  EXPECT_EQ(Get("s")->oldest_position(), 22u);
}

// What is taken back is in the log too.
TEST_P(SessionTrimsTest, WhatIsTakenBackGoesToo) {
  ASSERT_TRUE(Make("s").ok());
  FeedMore("s", 3);
  const uint64_t here = ends_.back();
  const NamedTensors inputs = Inputs(2);
  fed_.push_back(inputs);
  const Outputs expected = ByHand("gla", fed_).back();
  for (int i = 0; i < 150; ++i) {
    EXPECT_EQ(Bytes(Feed("s", inputs)), expected) << i;
    ASSERT_TRUE(Rewind("s", here).ok());
    if (i % 40 == 20) Restart();
  }
  EXPECT_LT(LogBytes("s"), 3 * kKept + 2000);
  EXPECT_EQ(Bytes(Feed("s", inputs)), expected);
}

TEST_P(SessionTrimsTest, SnapshotsStayAndGoOn) {
  const NamedTensors more = Inputs(2);
  ASSERT_TRUE(Make("s").ok());
  ASSERT_TRUE(TakeSnapshot("s", "nothing").ok());
  FeedMore("s", 3);
  const uint64_t first = ends_.back();
  ASSERT_TRUE(TakeSnapshot("s", "early").ok());
  std::vector<NamedTensors> behind = fed_;
  behind.push_back(more);
  const Outputs early = ByHand("gla", behind).back();
  // Another history at the same position.
  ASSERT_TRUE(Rewind("s", ends_[1]).ok());
  fed_.resize(2), ends_.resize(2), got_.resize(2);
  fed_.push_back(Inputs(static_cast<int64_t>(first - ends_[1])));
  ASSERT_TRUE(Feed("s", fed_.back()).ok());
  ends_.push_back(first), got_.emplace_back();
  ASSERT_TRUE(TakeSnapshot("s", "other").ok());
  behind = fed_;
  behind.push_back(more);
  const Outputs other = ByHand("gla", behind).back();
  ASSERT_NE(other, early);
  FeedMore("s", 60);
  ASSERT_TRUE(TakeSnapshot("s", "late").ok());
  const uint64_t late = ends_.back();
  behind = fed_;
  behind.push_back(more);
  const Outputs last = ByHand("gla", behind).back();
  FeedMore("s", 15);
  ASSERT_GT(Get("s")->oldest_position(), first);
  ASSERT_LT(Get("s")->oldest_position(), late);
  for (const bool restart : {false, true}) {
    SCOPED_TRACE(restart);
    const auto goes_on = [&](const char* name, uint64_t position, const Outputs& expected) {
      SCOPED_TRACE(name);
      if (restart) Restart();
      const auto there = GoTo("s", name);
      ASSERT_TRUE(there.ok()) << there.status();
      EXPECT_EQ(there->position(), position);
      EXPECT_LE(there->oldest_position(), position);
      if (restart) Restart();
      EXPECT_EQ(Bytes(Feed("s", more)), expected);
      ASSERT_EQ(Rewind("s", position)->position(), position);
      EXPECT_EQ(Bytes(Feed("s", more)), expected);
    };
    goes_on("early", first, early);
    goes_on("other", first, other);
    goes_on("late", late, last);
    ASSERT_TRUE(Rewind("s", Get("s")->oldest_position()).ok());
    goes_on("nothing", 0, ByHand("gla", {more})[0]);
    goes_on("early", first, early);
    // Until the log is trimmed again, behind a snapshot.
    FeedMore("s", 60);
    EXPECT_GT(Get("s")->oldest_position(), first);
    goes_on("other", first, other);
  }
}

TEST_P(SessionTrimsTest, TrimmedSessionsAreForkedAndExported) {
  ASSERT_TRUE(Make("s").ok());
  FeedMore("s", 90);
  ASSERT_GT(Get("s")->oldest_position(), 0u);
  v1::ExportRequest request;
  request.set_session("s");
  const auto file =
      Await<std::string>([&](auto done) { manager_->Export(request, std::move(done)); });
  ASSERT_TRUE(file.ok()) << file.status();
  v1::ImportHeader header;
  header.set_session("copy");
  const auto made =
      Await<v1::Session>([&](auto done) { manager_->Import(header, *file, std::move(done)); });
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_EQ(made->position(), ends_.back());
  ASSERT_TRUE(Fork("s", "fork", ends_.back()).ok());
  FeedMore("s", 1);
  EXPECT_EQ(Bytes(Feed("copy", fed_.back())), got_.back());
  EXPECT_EQ(Bytes(Feed("fork", fed_.back())), got_.back());
}

TEST_P(SessionTrimsTest, WithNothingSetAllStays) {
  limits_.max_log_bytes = 0;
  Restart();
  ASSERT_TRUE(Make("s").ok());
  FeedMore("s", 90);
  EXPECT_EQ(Get("s")->oldest_position(), 0u);
  ASSERT_TRUE(Rewind("s", ends_[0]).ok());
  EXPECT_EQ(Bytes(Feed("s", fed_[1])), got_[1]);
}

TEST_P(SessionTrimsTest, WithoutAStoreMemoryIsBounded) {
  ASSERT_TRUE(Make("s", "gla", v1::NONE).ok());
  FeedMore("s", 5);
  ASSERT_TRUE(TakeSnapshot("s", "here").ok());
  std::vector<NamedTensors> behind = fed_;
  FeedMore("s", 150);
  EXPECT_EQ(got_, ByHand("gla", fed_));
  EXPECT_GT(Oldest("s"), 60u);
  ASSERT_TRUE(Rewind("s", ends_[ends_.size() - 3]).ok());
  EXPECT_EQ(Bytes(Feed("s", fed_[fed_.size() - 2])), got_[got_.size() - 2]);
  const size_t oldest = Oldest("s");
  ASSERT_TRUE(Rewind("s", ends_[oldest]).ok());
  EXPECT_EQ(Bytes(Feed("s", fed_[oldest + 1])), got_[oldest + 1]);
  ASSERT_TRUE(GoTo("s", "here").ok());
  behind.push_back(Inputs(2));
  EXPECT_EQ(Bytes(Feed("s", behind.back())), ByHand("gla", behind).back());
}

INSTANTIATE_TEST_SUITE_P(Stores, SessionTrimsTest,
                         ::testing::Values(Kind::kMemory, Kind::kRocksDb, Kind::kRedis),
                         [](const auto& info) {
                           return info.param == Kind::kMemory    ? "Memory"
                                  : info.param == Kind::kRocksDb ? "RocksDb"
                                                                 : "Redis";
                         });

}  // namespace
}  // namespace attnd
