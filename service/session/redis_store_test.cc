// What the Redis store does when its server dies, comes back, forgets, or lies. What every store
// promises is in session_store_test.cc.
#include "service/session/redis_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <random>

#include "service/session/testing/redis_server.h"

namespace attnd {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(RedisUrlTest, HasWhatItSays) {
  const RedisAddress address =
      ParseRedisUrl("redis://me:s%40crt@[::1]:6380/3?prefix=a%3a&replicas=2").value();
  EXPECT_EQ(address.host, "::1");
  EXPECT_EQ(address.port, 6380);
  EXPECT_EQ(address.user, "me");
  EXPECT_EQ(address.password, "s@crt");
  EXPECT_EQ(address.database, 3);
  EXPECT_EQ(address.prefix, "a:");
  EXPECT_EQ(address.replicas, 2);
  EXPECT_EQ(ParseRedisUrl("redis://cache")->port, 6379);
  const RedisAddress socket = ParseRedisUrl("redis+unix:///run/redis.sock?database=1").value();
  EXPECT_EQ(socket.socket, "/run/redis.sock");
  EXPECT_EQ(socket.database, 1);
  for (const char* url : {"", "rediss://host", "redis://", "redis://host:x", "redis://host:70000",
                          "redis://:@host", "redis://:secret@host/x", "redis://host?replica=1",
                          "redis://:secret%4@host", "redis+unix://path"}) {
    const absl::Status status = ParseRedisUrl(url).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << url;
    EXPECT_THAT(std::string(status.message()), HasSubstr("expected redis://")) << url;
    EXPECT_THAT(std::string(status.message()), Not(HasSubstr("secret"))) << url;
  }
}

class RedisStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!RedisServer::Installed()) GTEST_SKIP() << RedisServer::kMissing;
    server_ = std::make_unique<RedisServer>();
    store_ = RedisStore::Open({.address = server_->address()}).value();
  }

  // Whatever the server is asked, past the store.
  RedisConnection::Reply Ask(const std::vector<absl::string_view>& words) {
    RedisConnection raw(server_->address());
    auto replies = raw.Run({&words, 1});
    EXPECT_TRUE(replies.ok()) << replies.status();
    return std::move(replies->front());
  }

  absl::Status PutState(uint64_t epoch, uint64_t position, absl::string_view state) {
    return store_->PutState("s", epoch, {position, 0, ""}, {&state, 1}, Durability::kAsync);
  }

  std::unique_ptr<RedisServer> server_;
  std::unique_ptr<RedisStore> store_;
};

TEST_F(RedisStoreTest, ALostServerIsUnavailableUntilItIsBack) {
  const uint64_t epoch = store_->Acquire("s").value();
  ASSERT_TRUE(store_->Append("s", epoch, {0, "a"}, Durability::kSync).ok());
  server_->Kill();
  EXPECT_EQ(store_->Append("s", epoch, {1, "b"}, Durability::kSync).code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(store_->ReadLog("s", 0, SessionStore::kAll).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(store_->List("", "", 9).status().code(), absl::StatusCode::kUnavailable);
  SessionStore::StateInfo info;
  EXPECT_EQ(store_->GetState("s", 9, &info).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(store_->usage().sessions, 0u) << "never asked before";
  server_->Start();
  absl::SleepFor(absl::Milliseconds(150));
  ASSERT_TRUE(store_->Append("s", epoch, {1, "b"}, Durability::kSync).ok());
  EXPECT_EQ(store_->ReadLog("s", 0, SessionStore::kAll)->size(), 2u);
  // One that died and came back unseen is not even an error.
  server_->Kill();
  server_->Start();
  EXPECT_TRUE(store_->Append("s", epoch, {2, "c"}, Durability::kSync).ok());
  EXPECT_EQ(store_->ReadLog("s", 0, SessionStore::kAll)->size(), 3u);
  EXPECT_EQ(store_->usage().sessions, 1u);
}

TEST_F(RedisStoreTest, AServerThatHangsIsUnavailable) {
  const uint64_t epoch = store_->Acquire("s").value();
  server_->Signal(SIGSTOP);
  EXPECT_EQ(store_->Append("s", epoch, {0, "a"}, Durability::kAsync).code(),
            absl::StatusCode::kUnavailable);
  server_->Signal(SIGCONT);
  absl::SleepFor(absl::Milliseconds(150));
  // Whether the first one had its effect or not.
  EXPECT_TRUE(store_->Append("s", epoch, {0, "a"}, Durability::kAsync).ok());
  EXPECT_EQ(store_->ReadLog("s", 0, SessionStore::kAll)->size(), 1u);
}

TEST_F(RedisStoreTest, AServerThatForgotIsNoBeginning) {
  const uint64_t epoch = store_->Acquire("s").value();
  ASSERT_TRUE(store_->Append("s", epoch, {0, "a"}, Durability::kAsync).ok());
  ASSERT_TRUE(store_->Append("s", epoch, {1, "b"}, Durability::kAsync).ok());
  Ask({"FLUSHALL"});
  EXPECT_EQ(store_->Append("s", epoch, {2, "c"}, Durability::kAsync).code(),
            absl::StatusCode::kNotFound);
  // Not even an epoch is given out twice.
  EXPECT_GT(store_->Acquire("s").value(), epoch);
  EXPECT_EQ(store_->Append("s", epoch, {0, "x"}, Durability::kAsync).code(),
            absl::StatusCode::kAborted);
}

TEST_F(RedisStoreTest, WhatIsGoneInPartIsDamage) {
  const uint64_t epoch = store_->Acquire("s").value();
  ASSERT_TRUE(store_->Append("s", epoch, {0, "a"}, Durability::kAsync).ok());
  ASSERT_TRUE(PutState(epoch, 5, "state").ok());
  Ask({"RPOP", "attnd:log:s"});
  EXPECT_EQ(store_->ReadLog("s", 0, SessionStore::kAll).status().code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(store_->Append("s", epoch, {0, "b"}, Durability::kAsync).code(),
            absl::StatusCode::kDataLoss);
  Ask({"HDEL", "attnd:states:s", "5"});
  SessionStore::StateInfo info;
  EXPECT_EQ(store_->GetState("s", 9, &info).status().code(), absl::StatusCode::kDataLoss);
  ASSERT_TRUE(PutState(epoch, 5, "state").ok());
  Ask({"DEL", "attnd:head:s"});
  EXPECT_EQ(store_->ReadLog("s", 0, SessionStore::kAll).status().code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(store_->Acquire("s").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(store_->List("", "", 9).status().code(), absl::StatusCode::kDataLoss);
  ASSERT_TRUE(store_->Delete("s", epoch).ok());
  EXPECT_TRUE(store_->Acquire("s").ok()) << "deleted, it may begin anew";
}

TEST_F(RedisStoreTest, SyncIsRefusedWhereRedisCannotPromiseIt) {
  const uint64_t epoch = store_->Acquire("s").value();
  EXPECT_TRUE(store_->Append("s", epoch, {0, "a"}, Durability::kSync).ok());
  EXPECT_TRUE(store_->Flush().ok());
  Ask({"CONFIG", "SET", "appendfsync", "everysec"});
  const absl::Status refused = store_->Append("s", epoch, {1, "b"}, Durability::kSync);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("appendfsync everysec"));
  EXPECT_TRUE(store_->Append("s", epoch, {1, "b"}, Durability::kAsync).ok());
  // Nobody else has it either.
  RedisAddress address = server_->address();
  address.replicas = 1;
  const auto replicated = RedisStore::Open({.address = address}).value();
  EXPECT_EQ(replicated->Append("s", epoch, {2, "c"}, Durability::kSync).code(),
            absl::StatusCode::kUnavailable);
  const absl::Time begin = absl::Now();
  EXPECT_EQ(replicated->Flush().code(), absl::StatusCode::kUnavailable);
  EXPECT_LT(absl::Now() - begin, absl::Seconds(1)) << "nobody waits as long again";
  Ask({"CONFIG", "SET", "maxmemory-policy", "allkeys-lru"});
  EXPECT_EQ(RedisStore::Open({.address = address}).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(RedisStoreTest, FullIsFull) {
  const uint64_t epoch = store_->Acquire("s").value();
  const auto small = RedisStore::Open({.address = server_->address(), .max_bytes = 1000}).value();
  ASSERT_TRUE(small->Append("s", epoch, {0, std::string(900, 'x')}, Durability::kAsync).ok());
  const absl::Status status =
      small->Append("s", epoch, {1, std::string(200, 'x')}, Durability::kAsync);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("at most 1000 are allowed"));
  ASSERT_TRUE(small->Delete("s", epoch).ok());
  EXPECT_EQ(small->usage().log_bytes, 0u);
  // The server's own limit.
  const uint64_t again = store_->Acquire("s").value();
  Ask({"CONFIG", "SET", "maxmemory", "1"});
  EXPECT_EQ(store_->Append("s", again, {0, "a"}, Durability::kAsync).code(),
            absl::StatusCode::kResourceExhausted);
  Ask({"CONFIG", "SET", "maxmemory", "0"});
  EXPECT_TRUE(store_->ReadLog("s", 0, SessionStore::kAll)->empty());
}

// A flipped bit in any record, state or description: what was put, or an error.
TEST_F(RedisStoreTest, AFlippedBitIsNeverAnAnswer) {
  const unsigned seed = std::random_device()();
  std::printf("seed %u\n", seed);
  std::mt19937 random(seed);
  const auto draw = [&](size_t size) {
    std::string bytes(size, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    return bytes;
  };
  const uint64_t epoch = store_->Acquire("s").value();
  std::vector<std::string> records, states;
  for (uint64_t i = 0; i < 20; ++i) {
    records.push_back(draw(50 + random() % 200));
    ASSERT_TRUE(store_->Append("s", epoch, {i, records.back()}, Durability::kAsync).ok());
    states.push_back(draw(1000));
    ASSERT_TRUE(PutState(epoch, i, states.back()).ok());
  }
  for (int flip = 0; flip < 1000; ++flip) {
    const uint64_t at = random() % records.size();
    const std::string number = absl::StrCat(at);
    const unsigned kind = random() % 3;
    const absl::string_view key = kind == 1 ? "attnd:states:s" : "attnd:infos:s";
    const auto reply =
        kind == 0 ? Ask({"LINDEX", "attnd:log:s", number}) : Ask({"HGET", key, number});
    const std::string whole(reply->str, reply->len);
    std::string flipped = whole;
    flipped[random() % flipped.size()] ^= static_cast<char>(1 << random() % 8);
    const auto put = [&](const std::string& bytes) {
      kind == 0 ? Ask({"LSET", "attnd:log:s", number, bytes}) : Ask({"HSET", key, number, bytes});
    };
    put(flipped);
    SessionStore::StateInfo info;
    const absl::Status status = kind == 0 ? store_->ReadLog("s", 0, SessionStore::kAll).status()
                                          : store_->GetState("s", at, &info).status();
    ASSERT_EQ(status.code(), absl::StatusCode::kDataLoss) << "kind " << kind << " at " << at;
    put(whole);
    ASSERT_EQ(*store_->GetState("s", at, &info), states[at]);
    ASSERT_EQ((*store_->ReadLog("s", at, SessionStore::kAll))[0].bytes, records[at]);
  }
  // The right bytes in a wrong place are wrong.
  const auto reply = Ask({"LINDEX", "attnd:log:s", "3"});
  Ask({"LSET", "attnd:log:s", "4", absl::string_view(reply->str, reply->len)});
  EXPECT_EQ(store_->ReadLog("s", 0, SessionStore::kAll).status().code(),
            absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace attnd
