// What every store promises, and what the one on disk does after the end of its process and under
// damage.
#include "service/session/session_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <random>

#include "service/session/memory_store.h"
#include "service/session/redis_store.h"
#include "service/session/rocksdb_store.h"
#include "service/session/testing/redis_server.h"

namespace attnd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

std::vector<std::string> Bytes(const std::vector<SessionStore::Record>& records) {
  std::vector<std::string> bytes;
  bytes.reserve(records.size());
  for (const auto& record : records) bytes.push_back(record.bytes);
  return bytes;
}

enum class Kind { kMemory, kRocksDb, kRedis };

class SessionStoreTest : public ::testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    switch (GetParam()) {
      case Kind::kMemory:
        store_ = std::make_unique<MemoryStore>();
        break;
      case Kind::kRocksDb:
        store_ = RocksDbStore::Open({.folder = folder_}).value();
        break;
      case Kind::kRedis:
        if (!RedisServer::Installed()) GTEST_SKIP() << RedisServer::kMissing;
        server_ = std::make_unique<RedisServer>();
        store_ = RedisStore::Open({.address = server_->address()}).value();
    }
  }
  ~SessionStoreTest() override {
    store_.reset();
    fs::remove_all(folder_);
  }

  absl::Status PutState(const std::string& session, uint64_t epoch, uint64_t position,
                        const std::string& bytes, const std::string& label = "") {
    const absl::string_view half = absl::string_view(bytes).substr(0, bytes.size() / 2);
    const absl::string_view parts[] = {half, absl::string_view(bytes).substr(half.size())};
    return store_->PutState(session, epoch, {position, 0, label}, parts, Durability::kAsync);
  }

  const std::string folder_ =
      ::testing::TempDir() + "/attnd_store_" + std::to_string(std::random_device()());
  std::unique_ptr<RedisServer> server_;
  std::unique_ptr<SessionStore> store_;
};

TEST_P(SessionStoreTest, RecordsComeBackInOrder) {
  EXPECT_EQ(store_->ReadLog("s").status().code(), absl::StatusCode::kNotFound);
  const uint64_t epoch = store_->Acquire("s").value();
  ASSERT_TRUE(store_->Append("s", epoch, {0, "a"}, Durability::kSync).ok());
  ASSERT_TRUE(store_->Append("s", epoch, {1, std::string("b\0", 2)}, Durability::kNone).ok());
  EXPECT_THAT(Bytes(*store_->ReadLog("s")), ElementsAre("a", std::string("b\0", 2)));
  EXPECT_THAT(Bytes(*store_->ReadLog("s", 1)), ElementsAre(std::string("b\0", 2)));
  EXPECT_THAT(Bytes(*store_->ReadLog("s", 0, 1)), ElementsAre("a"));
  EXPECT_THAT(Bytes(*store_->ReadLog("s", 1, 5)), ElementsAre(std::string("b\0", 2)));
  EXPECT_TRUE(store_->Append("s", epoch, {0, "a"}, Durability::kAsync).ok()) << "again";
  EXPECT_EQ(store_->Append("s", epoch, {0, "c"}, Durability::kAsync).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(store_->Append("s", epoch, {3, "d"}, Durability::kAsync).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_P(SessionStoreTest, TrimmedLogsBeginLater) {
  const uint64_t epoch = store_->Acquire("s").value();
  const uint64_t other = store_->Acquire("s2").value();
  ASSERT_TRUE(store_->Append("s2", other, {0, "other"}, Durability::kAsync).ok());
  const std::string large(1000, 'x');
  for (uint64_t i = 0; i < 6; ++i) {
    ASSERT_TRUE(store_->Append("s", epoch, {i, large}, Durability::kAsync).ok());
  }
  const auto trim = [&](uint64_t number, const std::string& bytes) {
    return store_->TrimLog("s", epoch, {number, bytes}, Durability::kSync);
  };
  EXPECT_EQ(store_->TrimLog("s", epoch - 1, {2, "a"}, Durability::kAsync).code(),
            absl::StatusCode::kAborted);
  EXPECT_EQ(store_->TrimLog("none", epoch, {2, "a"}, Durability::kAsync).code(),
            absl::StatusCode::kNotFound);
  ASSERT_TRUE(trim(2, "two").ok());
  ASSERT_TRUE(trim(2, "two").ok()) << "again";
  const auto numbers = [&](uint64_t first, uint64_t most) {
    std::vector<uint64_t> found;
    const auto records = store_->ReadLog("s", first, most).value();
    for (const auto& record : records) found.push_back(record.sequence);
    return found;
  };
  EXPECT_THAT(Bytes(*store_->ReadLog("s")), ElementsAre("two", large, large, large));
  EXPECT_THAT(numbers(0, 2), ElementsAre(2, 3));
  EXPECT_THAT(numbers(4, 9), ElementsAre(4, 5));
  EXPECT_THAT(numbers(6, 9), ElementsAre());
  for (const uint64_t wrong : {1, 6, 9}) {
    EXPECT_EQ(trim(wrong, "x").code(), absl::StatusCode::kInvalidArgument) << wrong;
  }
  EXPECT_EQ(store_->Append("s", epoch, {1, large}, Durability::kAsync).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(store_->Append("s", epoch, {5, large}, Durability::kAsync).ok()) << "again";
  EXPECT_TRUE(store_->Append("s", epoch, {6, "six"}, Durability::kAsync).ok());
  EXPECT_EQ(store_->Append("s", epoch, {8, "x"}, Durability::kAsync).code(),
            absl::StatusCode::kInvalidArgument);
  ASSERT_TRUE(trim(6, "all").ok());
  EXPECT_THAT(Bytes(*store_->ReadLog("s")), ElementsAre("all"));
  ASSERT_TRUE(store_->SetExpiry("s", epoch, 100).ok());
  EXPECT_THAT(numbers(0, 9), ElementsAre(6)) << "what else is known of the session leaves it";
  EXPECT_THAT(Bytes(*store_->ReadLog("s2")), ElementsAre("other"));
  if (GetParam() != Kind::kRocksDb) {  // Which frees when it compacts.
    EXPECT_LT(store_->usage().log_bytes, 100u);
  }
  ASSERT_TRUE(store_->Delete("s", epoch).ok());
  EXPECT_EQ(store_->ReadLog("s").status().code(), absl::StatusCode::kNotFound);
  const uint64_t anew = store_->Acquire("s").value();
  EXPECT_TRUE(store_->Append("s", anew, {0, "new"}, Durability::kAsync).ok());
  EXPECT_THAT(Bytes(*store_->ReadLog("s")), ElementsAre("new"));
}

TEST_P(SessionStoreTest, StaleOwnersAreFencedOff) {
  const uint64_t old = store_->Acquire("s").value();
  ASSERT_TRUE(store_->Append("s", old, {0, "a"}, Durability::kAsync).ok());
  const uint64_t now = store_->Acquire("s").value();
  EXPECT_GT(now, old);
  EXPECT_EQ(store_->Append("s", old, {1, "b"}, Durability::kAsync).code(),
            absl::StatusCode::kAborted);
  EXPECT_EQ(PutState("s", old, 5, "x").code(), absl::StatusCode::kAborted);
  EXPECT_EQ(store_->Delete("s", old).code(), absl::StatusCode::kAborted);
  EXPECT_TRUE(store_->Append("s", now, {1, "b"}, Durability::kAsync).ok());
}

TEST_P(SessionStoreTest, ManyRecordsAreOneWriteOrNone) {
  const uint64_t a = store_->Acquire("a").value(), b = store_->Acquire("b").value();
  EXPECT_TRUE(store_
                  ->AppendAll({{"a", a, {0, "1"}}, {"b", b, {0, "2"}}, {"a", a, {1, "3"}}},
                              Durability::kAsync)
                  .ok());
  EXPECT_THAT(Bytes(*store_->ReadLog("a")), ElementsAre("1", "3"));
  EXPECT_FALSE(
      store_->AppendAll({{"a", a, {2, "4"}}, {"b", b, {7, "5"}}}, Durability::kAsync).ok());
  EXPECT_THAT(Bytes(*store_->ReadLog("a")), ElementsAre("1", "3"));
}

TEST_P(SessionStoreTest, TheLatestStateUpToAPosition) {
  const uint64_t epoch = store_->Acquire("s").value();
  SessionStore::StateInfo info;
  EXPECT_EQ(store_->GetState("s", 99, &info).status().code(), absl::StatusCode::kNotFound);
  const std::string large(100000, 'x');
  ASSERT_TRUE(PutState("s", epoch, 64, "small", "label").ok());
  ASSERT_TRUE(PutState("s", epoch, 300, large).ok());
  EXPECT_EQ(store_->GetState("s", 63, &info).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(*store_->GetState("s", 299, &info), "small");
  EXPECT_EQ(info.position, 64u);
  EXPECT_EQ(info.label, "label");
  EXPECT_EQ(*store_->GetState("s", 1000, &info), large);
  EXPECT_EQ(info.bytes, large.size());
  EXPECT_EQ(store_->ListStates("s")->size(), 2u);
  ASSERT_TRUE(store_->DropState("s", epoch, 300).ok());
  EXPECT_EQ(*store_->GetState("s", 1000, &info), "small");
  // Another session's states are another's.
  store_->Acquire("s0").value();
  EXPECT_EQ(store_->GetState("s0", 1000, &info).status().code(), absl::StatusCode::kNotFound);
}

TEST_P(SessionStoreTest, DeletedSessionsAreGone) {
  uint64_t epoch = 0;
  for (const char* id : {"b", "ab", "a"}) {
    epoch = store_->Acquire(id).value();
    ASSERT_TRUE(store_->Append(id, epoch, {0, id}, Durability::kAsync).ok());
    ASSERT_TRUE(PutState(id, epoch, 1, "state").ok());
  }
  EXPECT_THAT(*store_->List("", "", 10), ElementsAre("a", "ab", "b"));
  EXPECT_THAT(*store_->List("a", "", 10), ElementsAre("a", "ab"));
  EXPECT_THAT(*store_->List("", "a", 1), ElementsAre("ab"));
  ASSERT_TRUE(store_->Delete("a", epoch).ok());
  EXPECT_TRUE(store_->Delete("a", epoch).ok());
  EXPECT_THAT(*store_->List("", "", 10), ElementsAre("ab", "b"));
  SessionStore::StateInfo info;
  EXPECT_FALSE(store_->GetState("a", 9, &info).ok());
  EXPECT_EQ(*store_->GetState("ab", 9, &info), "state");
  EXPECT_THAT(Bytes(*store_->ReadLog("ab")), ElementsAre("ab"));
}

TEST_P(SessionStoreTest, SessionsExpireInOrder) {
  std::map<std::string, uint64_t> epochs;
  for (const char* id : {"a", "b", "c", "d"}) epochs[id] = store_->Acquire(id).value();
  EXPECT_EQ(store_->CountSessions(), 4u);
  EXPECT_THAT(*store_->ListExpired(1000, 10), ElementsAre());
  ASSERT_TRUE(store_->SetExpiry("a", epochs["a"], 300).ok());
  ASSERT_TRUE(store_->SetExpiry("b", epochs["b"], 200).ok());
  ASSERT_TRUE(store_->SetExpiry("c", epochs["c"], 100).ok());
  EXPECT_EQ(store_->SetExpiry("nobody", 1, 100).code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(*store_->ListExpired(1000, 10), ElementsAre("c", "b", "a"));
  EXPECT_THAT(*store_->ListExpired(200, 10), ElementsAre("c", "b"));
  EXPECT_THAT(*store_->ListExpired(1000, 1), ElementsAre("c"));
  ASSERT_TRUE(store_->Append("c", epochs["c"], {0, "record"}, Durability::kAsync).ok());
  EXPECT_THAT(*store_->ListExpired(100, 10), ElementsAre("c")) << "a write leaves it";
  ASSERT_TRUE(store_->SetExpiry("c", epochs["c"], 0).ok());
  ASSERT_TRUE(store_->SetExpiry("b", epochs["b"], 500).ok());
  EXPECT_THAT(*store_->ListExpired(1000, 10), ElementsAre("a", "b"));
  ASSERT_TRUE(store_->Delete("a", epochs["a"]).ok());
  EXPECT_THAT(*store_->ListExpired(1000, 10), ElementsAre("b"));
  EXPECT_EQ(store_->CountSessions(), 3u);
  EXPECT_EQ(store_->SetExpiry("b", epochs["b"] - 1, 1).code(), absl::StatusCode::kAborted);
}

INSTANTIATE_TEST_SUITE_P(Stores, SessionStoreTest,
                         ::testing::Values(Kind::kMemory, Kind::kRocksDb, Kind::kRedis),
                         [](const auto& info) {
                           return info.param == Kind::kMemory    ? "Memory"
                                  : info.param == Kind::kRocksDb ? "RocksDb"
                                                                 : "Redis";
                         });

class RocksDbStoreTest : public ::testing::Test {
 protected:
  ~RocksDbStoreTest() override { fs::remove_all(folder_); }
  absl::StatusOr<std::unique_ptr<RocksDbStore>> Open(int64_t max_bytes = 0) {
    return RocksDbStore::Open({.folder = folder_, .max_bytes = max_bytes});
  }
  const std::string folder_ =
      ::testing::TempDir() + "/attnd_rocksdb_" + std::to_string(std::random_device()());
};

TEST_F(RocksDbStoreTest, AnotherProcessFindsEverything) {
  {
    const auto store = Open().value();
    const uint64_t epoch = store->Acquire("s").value();
    ASSERT_TRUE(store->Append("s", epoch, {0, "a"}, Durability::kAsync).ok());
    const absl::string_view state = "state";
    ASSERT_TRUE(store->PutState("s", epoch, {7, 0, ""}, {&state, 1}, Durability::kAsync).ok());
    EXPECT_EQ(Open().status().code(), absl::StatusCode::kFailedPrecondition) << "one at a time";
  }
  const auto store = Open().value();
  EXPECT_THAT(Bytes(*store->ReadLog("s", 0, SessionStore::kAll)), ElementsAre("a"));
  SessionStore::StateInfo info;
  EXPECT_EQ(*store->GetState("s", 7, &info), "state");
  EXPECT_EQ(*store->Acquire("s"), 2u);
}

TEST_F(RocksDbStoreTest, RefusesMoreThanItsQuota) {
  const auto store = Open(1 << 20).value();
  const uint64_t epoch = store->Acquire("s").value();
  absl::Status status;
  std::mt19937 random(1);
  for (uint64_t i = 0; i < 64 && status.ok(); ++i) {
    std::string state(1 << 20, '\0');
    for (char& byte : state) byte = static_cast<char>(random());
    const absl::string_view part = state;
    status = store->PutState("s", epoch, {i, 0, ""}, {&part, 1}, Durability::kAsync);
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("at most 1048576 are allowed"));
}

// A flipped bit anywhere: what comes back is what was put, or an error, never anything else.
TEST_F(RocksDbStoreTest, AFlippedBitIsNeverAnAnswer) {
  const unsigned seed = std::random_device()();
  std::printf("seed %u\n", seed);
  std::mt19937 random(seed);
  std::vector<std::string> records, states;
  {
    const auto store = Open().value();
    const uint64_t epoch = store->Acquire("s").value();
    for (uint64_t i = 0; i < 40; ++i) {
      std::string bytes(50 + random() % 200, '\0');
      for (char& byte : bytes) byte = static_cast<char>(random());
      records.push_back(bytes);
      ASSERT_TRUE(store->Append("s", epoch, {i, bytes}, Durability::kAsync).ok());
      std::string state(20000, '\0');
      for (char& byte : state) byte = static_cast<char>(random());
      states.push_back(state);
      const absl::string_view part = states.back();
      ASSERT_TRUE(store->PutState("s", epoch, {i, 0, ""}, {&part, 1}, Durability::kAsync).ok());
    }
  }
  // As the writer left it, all in the log, and as the next process leaves it, in tables and blobs.
  const std::string whole = folder_ + "_whole", settled = folder_ + "_settled";
  fs::copy(folder_, whole);
  ASSERT_TRUE(Open().ok());
  fs::rename(folder_, settled);
  int detected = 0;
  constexpr int kFlips = 1000;
  for (int flip = 0; flip < kFlips; ++flip) {
    fs::remove_all(folder_);
    fs::copy(flip % 2 == 0 ? whole : settled, folder_);
    // Any byte of any file of data is as likely as any other.
    std::vector<std::pair<fs::path, uint64_t>> files;
    uint64_t total = 0;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      const std::string name = entry.path().filename();
      if (name.rfind("LOG", 0) == 0 || name == "LOCK") continue;  // The library's diary.
      total += entry.file_size();
      files.emplace_back(entry.path(), entry.file_size());
    }
    uint64_t at = std::uniform_int_distribution<uint64_t>(0, total - 1)(random);
    size_t file = 0;
    while (at >= files[file].second) at -= files[file++].second;
    {
      std::fstream stream(files[file].first, std::ios::in | std::ios::out | std::ios::binary);
      stream.seekg(static_cast<int64_t>(at));
      const auto byte = static_cast<char>(stream.get() ^ (1 << random() % 8));
      stream.seekp(static_cast<int64_t>(at));
      stream.put(byte);
    }
    const auto where = files[file].first.filename().string() + " at " + std::to_string(at);
    const auto store = Open();
    if (!store.ok()) {
      ++detected;
      continue;
    }
    bool failed = false;
    const auto log = (*store)->ReadLog("s", 0, SessionStore::kAll);
    if (log.ok()) {
      ASSERT_EQ(Bytes(*log), records) << where;
    } else {
      failed = true;
    }
    for (uint64_t i = 0; i < states.size(); ++i) {
      SessionStore::StateInfo info;
      const auto state = (*store)->GetState("s", i, &info);
      if (!state.ok()) {
        failed = true;
      } else {
        ASSERT_EQ(info.position, i) << where;
        ASSERT_TRUE(*state == states[i]) << where;
      }
    }
    detected += failed ? 1 : 0;
  }
  std::printf("%d of %d flips detected, the others harmless\n", detected, kFlips);
  EXPECT_GT(detected, kFlips / 2);
  fs::remove_all(whole);
  fs::remove_all(settled);
}

}  // namespace
}  // namespace attnd
