// A store that keeps what it is given as long as the process lives: for servers without a state
// directory, and for tests.
#ifndef ATTND_SERVICE_SESSION_MEMORY_STORE_H_
#define ATTND_SERVICE_SESSION_MEMORY_STORE_H_

#include <deque>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "service/session/session_store.h"

namespace attnd {

class MemoryStore : public SessionStore {
 public:
  absl::StatusOr<uint64_t> Acquire(absl::string_view session) override;
  absl::Status Append(absl::string_view session, uint64_t epoch, const Record& record,
                      Durability durability) override;
  absl::Status AppendAll(absl::Span<const Entry> entries, Durability durability) override;
  absl::Status TrimLog(absl::string_view session, uint64_t epoch, const Record& record,
                       Durability durability) override;
  absl::StatusOr<std::vector<Record>> ReadLog(absl::string_view session, uint64_t first,
                                              uint64_t most) override;
  absl::Status PutState(absl::string_view session, uint64_t epoch, const StateInfo& info,
                        absl::Span<const absl::string_view> parts, Durability durability) override;
  absl::StatusOr<std::string> GetState(absl::string_view session, uint64_t position,
                                       StateInfo* info) override;
  absl::StatusOr<std::vector<StateInfo>> ListStates(absl::string_view session) override;
  absl::Status DropState(absl::string_view session, uint64_t epoch, uint64_t position) override;
  absl::Status SetExpiry(absl::string_view session, uint64_t epoch, uint64_t seconds) override;
  absl::StatusOr<std::vector<std::string>> ListExpired(uint64_t seconds, size_t limit) override;
  absl::Status Delete(absl::string_view session, uint64_t epoch) override;
  absl::StatusOr<std::vector<std::string>> List(absl::string_view prefix, absl::string_view after,
                                                size_t limit) override;
  uint64_t CountSessions() override ABSL_LOCKS_EXCLUDED(mu_);
  Usage usage() override;
  absl::Status Flush() override { return absl::OkStatus(); }

 private:
  struct Kept {
    uint64_t epoch = 0;
    uint64_t expiry = 0;
    uint64_t first = 0;  // Number of the log's first record.
    std::deque<std::string> log;
    std::map<uint64_t, std::pair<StateInfo, std::string>> states;
  };

  absl::StatusOr<Kept*> Find(absl::string_view session, uint64_t epoch)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status AppendLocked(absl::string_view session, uint64_t epoch, const Record& record)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  absl::Mutex mu_;
  std::map<std::string, Kept, std::less<>> sessions_ ABSL_GUARDED_BY(mu_);
};

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_MEMORY_STORE_H_
