// The store on disk: RocksDB, which brings the log, checksums, atomic writes and compaction; states
// are its blobs. One process at a time owns a directory.
//
// Keys: "e" session -> epoch, number of records, expiry, number of the first record; "x" expiry
// session -> nothing; "l" session 0x00 sequence -> record; "s" session 0x00 position -> size and
// label of a state, "d" session 0x00 position -> its bytes, apart so that states are listed without
// being read. Numbers are big-endian, so that order is order.
#ifndef ATTND_SERVICE_SESSION_ROCKSDB_STORE_H_
#define ATTND_SERVICE_SESSION_ROCKSDB_STORE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "service/session/session_store.h"

namespace rocksdb {
class ColumnFamilyHandle;
class DB;
class WriteBatch;
}  // namespace rocksdb

namespace attnd {

struct RocksDbOptions {
  std::string folder;     // Made where it is not.
  int64_t max_bytes = 0;  // On disk; appends and states beyond it are refused. 0: no limit.
};

class RocksDbStore final : public SessionStore {
 public:
  // FAILED_PRECONDITION if another process has the folder, DATA_LOSS if what is there is damaged,
  // UNAVAILABLE for what the disk says.
  static absl::StatusOr<std::unique_ptr<RocksDbStore>> Open(const RocksDbOptions& options);
  ~RocksDbStore() override;

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
  Usage usage() override;
  uint64_t CountSessions() override;
  absl::Status Flush() override;

 private:
  // What is known of a session without asking the disk.
  struct Head {
    uint64_t epoch = 0;
    uint64_t records = 0;
    uint64_t expiry = 0;
    uint64_t first = 0;  // Number of the log's first record.
  };
  static std::string Bytes(const Head& head);

  explicit RocksDbStore(RocksDbOptions options);
  absl::StatusOr<Head> ReadHead(absl::string_view session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status CheckEpoch(absl::string_view session, uint64_t epoch, const Head& head) const;
  absl::Status CheckRoom(bool for_state);
  absl::Status ReadCount();
  static absl::StatusOr<StateInfo> ReadInfo(absl::string_view session, absl::string_view key,
                                            absl::string_view value);
  absl::Status Write(rocksdb::WriteBatch& batch, Durability durability);

  const RocksDbOptions options_;
  // Serialises changes: a record's place is checked and taken in one go.
  absl::Mutex mu_;
  absl::flat_hash_map<std::string, Head> heads_ ABSL_GUARDED_BY(mu_);
  uint64_t sessions_ ABSL_GUARDED_BY(mu_) = 0;
  std::unique_ptr<rocksdb::DB> db_;
  rocksdb::ColumnFamilyHandle* log_ = nullptr;     // Owned by db_.
  rocksdb::ColumnFamilyHandle* states_ = nullptr;  // Owned by db_.
};

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_ROCKSDB_STORE_H_
