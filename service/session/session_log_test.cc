// The log of a session: the same facts whenever the same records are read.
#include "service/session/session_log.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <random>

namespace attnd {
namespace {

v1::SessionRecord Created(uint64_t seed) {
  v1::SessionRecord record;
  record.mutable_created()->set_seed(seed);
  return record;
}

v1::SessionRecord Appended(const SessionLog& log, const std::vector<uint32_t>& tokens,
                           uint64_t hash) {
  v1::SessionRecord record;
  record.set_request_hash(hash);
  record.mutable_appended()->set_position(log.position());
  record.mutable_appended()->mutable_tokens()->Assign(tokens.begin(), tokens.end());
  return record;
}

v1::SessionRecord Rewound(uint64_t position, uint64_t hash) {
  v1::SessionRecord record;
  record.set_request_hash(hash);
  record.mutable_rewound()->set_position(position);
  return record;
}

TEST(SessionLogTest, APositionThatASessionLeftBehindNamesNothingAnyMore) {
  SessionLog log;
  ASSERT_TRUE(log.Apply(Created(1)).ok());
  ASSERT_TRUE(log.Apply(Appended(log, {1, 2, 3}, 11)).ok());
  ASSERT_NE(log.FindRequest("", 0), nullptr);
  ASSERT_TRUE(log.Apply(Rewound(0, 22)).ok());
  EXPECT_EQ(log.FindRequest("", 0), nullptr) << "the same append again is another one";
  ASSERT_NE(log.FindRequest("", 3), nullptr) << "the rewind may be repeated";
  EXPECT_EQ(log.FindRequest("", 3)->hash, 22u);
  ASSERT_TRUE(log.Apply(Appended(log, {1, 2, 3}, 11)).ok());
  EXPECT_EQ(log.FindRequest("", 3), nullptr) << "another rewind from there is another one";
  EXPECT_EQ(log.FindRequest("", 0)->hash, 11u);
}

TEST(SessionLogTest, ChainHashesAreThoseOfTheTokens) {
  const unsigned seed = std::random_device()();
  std::printf("seed %u\n", seed);
  std::mt19937 random(seed);
  SessionLog log;
  ASSERT_TRUE(log.Apply(Created(seed)).ok());
  for (int change = 0; change < 60; ++change) {
    if (random() % 3 == 0) {
      ASSERT_TRUE(log.Apply(Rewound(random() % (log.position() + 1), 0)).ok());
    } else {
      std::vector<uint32_t> tokens(random() % 300);
      for (uint32_t& token : tokens) token = static_cast<uint32_t>(random() % 1000);
      ASSERT_TRUE(log.Apply(Appended(log, tokens, 0)).ok());
    }
    EXPECT_EQ(log.chain_hash(), SessionLog::ChainHashOf(seed, log.tokens()));
    const uint64_t at = random() % (log.position() + 1);
    EXPECT_EQ(log.ChainHashAt(at), SessionLog::ChainHashOf(seed, log.tokens().subspan(0, at)));
  }
}

TEST(SessionLogTest, AForkHasTheHashesOfItsTokensWhateverItsParentHas) {
  SessionLog parent;
  ASSERT_TRUE(parent.Apply(Created(5)).ok());
  std::vector<uint32_t> tokens(1000);
  for (uint32_t& token : tokens) token = static_cast<uint32_t>(&token - tokens.data()) % 7;
  ASSERT_TRUE(parent.Apply(Appended(parent, tokens, 0)).ok());
  for (const uint64_t seed : {5, 6}) {
    for (const size_t count : {0, 100, 256, 700, 1000}) {
      for (const bool own : {true, false}) {
        v1::SessionRecord record = Created(seed);
        record.mutable_created()->mutable_tokens()->Assign(
            tokens.begin(), tokens.begin() + static_cast<int64_t>(count));
        // Not the parent's tokens after all.
        if (!own && count > 0) record.mutable_created()->set_tokens(static_cast<int>(count / 2), 9);
        SessionLog fork;
        ASSERT_TRUE(fork.Apply(record, &parent).ok());
        ASSERT_TRUE(fork.Apply(Appended(fork, {1, 2, 3}, 0)).ok());
        EXPECT_EQ(fork.position(), count + 3);
        EXPECT_EQ(fork.chain_hash(), SessionLog::ChainHashOf(seed, fork.tokens()));
        EXPECT_EQ(fork.ChainHashAt(count / 2),
                  SessionLog::ChainHashOf(seed, fork.tokens().subspan(0, count / 2)));
      }
    }
  }
}

TEST(SessionLogTest, SnapshotsKeepTheirTokens) {
  SessionLog log;
  ASSERT_TRUE(log.Apply(Created(7)).ok());
  ASSERT_TRUE(log.Apply(Appended(log, {1, 2, 3, 4}, 1)).ok());
  v1::SessionRecord snapshotted;
  snapshotted.mutable_snapshotted()->set_snapshot("here");
  snapshotted.mutable_snapshotted()->set_position(3);
  ASSERT_TRUE(log.Apply(snapshotted).ok());
  EXPECT_FALSE(log.Apply(snapshotted).ok()) << "a name is given once";
  ASSERT_TRUE(log.Apply(Rewound(1, 2)).ok());
  ASSERT_TRUE(log.Apply(Appended(log, {9, 9, 9, 9, 9}, 3)).ok());
  EXPECT_EQ(log.CommonWith(log.snapshots().at("here")), 1u);
  v1::SessionRecord restored;
  restored.mutable_restored()->set_snapshot("here");
  ASSERT_TRUE(log.Apply(restored).ok());
  EXPECT_EQ(std::vector<int32_t>(log.tokens().begin(), log.tokens().end()),
            (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(log.chain_hash(), log.snapshots().at("here").chain_hash);
  EXPECT_EQ(log.chain_hash(), SessionLog::ChainHashOf(7, log.tokens()));
  restored.mutable_restored()->set_snapshot("nowhere");
  EXPECT_FALSE(log.Apply(restored).ok());
}

}  // namespace
}  // namespace attnd
