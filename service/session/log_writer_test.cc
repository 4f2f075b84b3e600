#include "service/session/log_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "service/session/memory_store.h"

namespace attnd {
namespace {

using ::testing::ElementsAre;

// One whose medium cannot promise anything.
class WithoutSync final : public MemoryStore {
 public:
  absl::Status Append(absl::string_view session, uint64_t epoch, const Record& record,
                      Durability durability) override {
    const Entry entry{std::string(session), epoch, record};
    return AppendAll({&entry, 1}, durability);
  }
  absl::Status AppendAll(absl::Span<const Entry> entries, Durability durability) override {
    asked.push_back(entries.size());
    if (durability == Durability::kSync) return absl::UnavailableError("repeat the call later");
    return MemoryStore::AppendAll(entries, durability);
  }
  std::vector<size_t> asked;  // Entries of each write.
};

TEST(LogWriterTest, OnlyWhoAsksForMoreThanTheMediumCanDoIsRefused) {
  WithoutSync store;
  std::vector<absl::StatusCode> answers(4, absl::StatusCode::kUnknown);
  {
    LogWriter writer(store);
    absl::Notification all;
    writer.Run([&] { all.WaitForNotification(); });
    const Durability durabilities[] = {Durability::kSync, Durability::kAsync, Durability::kSync,
                                       Durability::kAsync};
    for (size_t i = 0; i < 4; ++i) {
      const std::string id = std::string(1, static_cast<char>('a' + i));
      // A stale epoch is still refused alone.
      const uint64_t epoch = store.Acquire(id).value() - (i == 3 ? 1 : 0);
      writer.Write({id, epoch, {0, "record"}}, durabilities[i],
                   [&answers, i](const absl::Status& status) { answers[i] = status.code(); });
    }
    all.Notify();
  }
  using Code = absl::StatusCode;
  EXPECT_THAT(answers,
              ElementsAre(Code::kUnavailable, Code::kOk, Code::kUnavailable, Code::kAborted));
  EXPECT_THAT(store.asked, ElementsAre(4, 1, 1)) << "what cannot be is asked once";
  EXPECT_EQ(store.ReadLog("b", 0, SessionStore::kAll)->size(), 1u);
}

}  // namespace
}  // namespace attnd
