// Named points of sessions, and sessions in files.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "service/session/session_file.h"
#include "service/session/testing/manager_test.h"

namespace attnd {
namespace {

using ::testing::HasSubstr;

class SnapshotTest : public ManagerTest {
 protected:
  absl::StatusOr<v1::SnapshotInfo> Snapshot(const std::string& id, const std::string& name,
                                            absl::optional<uint64_t> position = absl::nullopt) {
    v1::SnapshotRequest request;
    request.set_session(id);
    request.set_snapshot(name);
    if (position.has_value()) request.set_position(*position);
    return Await<v1::SnapshotInfo>(
        [&](auto done) { manager_->Snapshot(request, std::move(done)); });
  }

  absl::StatusOr<v1::Session> Restore(const std::string& id, const std::string& name,
                                      absl::optional<uint64_t> expected = absl::nullopt) {
    v1::RestoreRequest request;
    request.set_session(id);
    request.set_snapshot(name);
    if (expected.has_value()) request.set_expected_position(*expected);
    return Await<v1::Session>([&](auto done) { manager_->Restore(request, std::move(done)); });
  }

  absl::StatusOr<std::string> Export(const std::string& id) {
    v1::ExportRequest request;
    request.set_session(id);
    return Await<std::string>([&](auto done) { manager_->Export(request, std::move(done)); });
  }

  absl::StatusOr<v1::Session> Import(const std::string& id, const std::string& file,
                                     bool recompute = false, const std::string& model = "") {
    v1::ImportHeader header;
    header.set_session(id);
    header.set_model(model);
    header.set_recompute(recompute);
    return Await<v1::Session>([&](auto done) { manager_->Import(header, file, std::move(done)); });
  }
};

// Through other branches, evictions and the end of a process.
TEST_F(SnapshotTest, APointComesBackWithItsBits) {
  for (const bool evicted : {false, true}) {
    if (evicted) limits_.max_state_bytes = 1;
    Restart();
    for (const auto durability : {v1::ASYNC, v1::NONE}) {
      if (evicted && durability == v1::NONE) continue;  // Its states stay in memory.
      const std::string id = absl::StrCat("s", evicted, static_cast<int>(durability));
      const std::vector<uint32_t> prompt = Tokens(180), other = Tokens(160);
      ASSERT_TRUE(Create(id, 1, durability).ok());
      ASSERT_TRUE(Append(id, prompt).ok());
      const auto here = Snapshot(id, "here");
      ASSERT_TRUE(here.ok()) << here.status();
      EXPECT_EQ(here->position(), 180u);
      ASSERT_TRUE(Snapshot(id, "earlier", 77).ok());
      ASSERT_TRUE(Rewind(id, 50).ok());
      ASSERT_TRUE(Append(id, other).ok());
      if (evicted) AwaitEviction();
      if (evicted) Restart();
      const auto restored = Restore(id, "here", 210);
      ASSERT_TRUE(restored.ok()) << restored.status();
      EXPECT_EQ(restored->position(), 180u);
      EXPECT_EQ(Restore(id, "here", 210)->position(), 180u) << "repeated";
      EXPECT_EQ(Decode(id, 30), Straight(prompt, 30));
      ASSERT_EQ(Restore(id, "earlier")->position(), 77u);
      EXPECT_EQ(Decode(id, 30), Straight({prompt.begin(), prompt.begin() + 77}, 30));
    }
  }
}

TEST_F(SnapshotTest, NamesAreKeptApart) {
  ASSERT_TRUE(Create("s").ok());
  ASSERT_TRUE(Append("s", Tokens(10)).ok());
  const auto first = Snapshot("s", "a");
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(Snapshot("s", "a")->chain_hash(), first->chain_hash()) << "the same again";
  EXPECT_EQ(Snapshot("s", "a", 5).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(Snapshot("s", "b", 11).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(Snapshot("s", "../b").status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Restore("s", "b").status().code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(Snapshot("s", "b", 5).ok());
  v1::ListSnapshotsRequest list;
  list.set_session("s");
  const auto listed = Await<v1::ListSnapshotsResponse>(
      [&](auto done) { manager_->ListSnapshots(list, std::move(done)); });
  ASSERT_EQ(listed->snapshots_size(), 2);
  EXPECT_EQ(listed->snapshots(1).position(), 5u);
  v1::DeleteSnapshotRequest remove;
  remove.set_session("s");
  remove.set_snapshot("a");
  for (int time = 0; time < 2; ++time) {
    std::promise<absl::Status> done;
    manager_->DeleteSnapshot(remove, [&](absl::Status s) { done.set_value(std::move(s)); });
    EXPECT_TRUE(done.get_future().get().ok());
  }
  Restart();
  EXPECT_EQ(Restore("s", "a").status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(Restore("s", "b").ok());
  limits_.max_snapshots = 1;
  Restart();
  EXPECT_EQ(Snapshot("s", "c").status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(SnapshotTest, AnImportedSessionGoesOnWithTheSameBits) {
  // Recurrent, and hybrids whose softmax layers have pages and windows.
  for (const std::string model : {"gla", "gated_deltanet_hybrid", "transformer"}) {
    const std::string id = model + "-from";
    ASSERT_TRUE(Create(id, 3, v1::ASYNC, model).ok());
    ASSERT_TRUE(Append(id, Tokens(100 + random_() % 100)).ok());
    Decode(id, 20);
    const auto file = Export(id);
    ASSERT_TRUE(file.ok()) << file.status();
    const std::vector<uint32_t> expected = Decode(id, 40);
    for (const bool recompute : {false, true}) {
      const std::string to = absl::StrCat(model, "-to", recompute);
      const auto made = Import(to, *file, recompute);
      ASSERT_TRUE(made.ok()) << made.status();
      EXPECT_EQ(Import(to, *file, recompute)->position(), made->position()) << "repeated";
      EXPECT_EQ(Decode(to, 40), expected) << to;
    }
    EXPECT_EQ(Import(id, *file).status().code(), absl::StatusCode::kAlreadyExists);
    ASSERT_TRUE(Import(model + "-again", *file).ok());
    Restart();
    EXPECT_EQ(Decode(model + "-again", 40), expected) << "after a restart";
  }
}

TEST_F(SnapshotTest, DamagedAndForeignFilesAreNamed) {
  ASSERT_TRUE(Create("s").ok());
  ASSERT_TRUE(Append("s", Tokens(100)).ok());
  const std::string file = Export("s").value();
  EXPECT_EQ(Import("t", "nonsense").status().code(), absl::StatusCode::kInvalidArgument);
  const auto other = Import("t", file, false, "kda").status();
  EXPECT_EQ(other.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(other.message()), HasSubstr("weights_hash: given"));
  // A flipped bit, wherever it is: an error, and never a session.
  int lost = 0;
  for (int flip = 0; flip < 200; ++flip) {
    std::string damaged = file;
    const size_t at = random_() % damaged.size();
    damaged[at] = static_cast<char>(damaged[at] ^ (1 << random_() % 8));
    const absl::Status status = Import("t", damaged).status();
    // But in the padding of the header, which says nothing.
    if (status.ok()) {
      ASSERT_EQ(file[at], ' ') << at;
      v1::DeleteSessionRequest remove;
      remove.set_session("t");
      std::promise<absl::Status> done;
      manager_->Delete(remove, [&](absl::Status s) { done.set_value(std::move(s)); });
      ASSERT_TRUE(done.get_future().get().ok());
      continue;
    }
    lost += absl::IsDataLoss(status) ? 1 : 0;
  }
  EXPECT_GT(lost, 100);
  // Whole, but of another architecture: what its checksum cannot tell.
  const auto softmax = table_->Load("transformer").value();
  const absl::Status state = StateOfSessionFile(file, *softmax->model).status();
  EXPECT_EQ(state.code(), absl::StatusCode::kFailedPrecondition) << state;
  for (int cut = 0; cut < 20; ++cut) {
    EXPECT_FALSE(Import("t", file.substr(0, random_() % file.size())).ok());
  }
}

}  // namespace
}  // namespace attnd
