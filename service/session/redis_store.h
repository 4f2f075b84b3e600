// The store in a Redis server, for sessions that outlive the machine that serves them. Redis checks
// no bytes of its own: every record, state and description is sealed with a digest of what it is
// and where it belongs, so that what comes back changed, or in another's place, is DATA_LOSS.
//
// kSync is what Redis can promise of it: with `appendfsync always` a record is in the server's file
// before the answer; with replicas asked for, that many have it in memory, or the change is
// UNAVAILABLE: the server has it then, and Flush tells when the replicas do. A server that is set
// up for neither is refused for kSync with FAILED_PRECONDITION. kAsync and kNone survive what the
// server's own settings let survive.
//
// Owners on several machines may share a server: an owner whose session was acquired by another is
// ABORTED at its next change. One server, with replicas or without; no Redis Cluster, since a
// change of many sessions is one script.
#ifndef ATTND_SERVICE_SESSION_REDIS_STORE_H_
#define ATTND_SERVICE_SESSION_REDIS_STORE_H_

#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "service/session/redis_connection.h"
#include "service/session/session_store.h"

namespace attnd {

struct RedisOptions {
  RedisAddress address;
  int64_t max_bytes = 0;  // Of records and states; more is refused. 0: no limit.
};

class RedisStore final : public SessionStore {
 public:
  // UNAVAILABLE if the server is out of reach; FAILED_PRECONDITION if it may evict keys that never
  // expire, for then it would lose sessions.
  static absl::StatusOr<std::unique_ptr<RedisStore>> Open(const RedisOptions& options);

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
  // What was last known while the server is out of reach.
  uint64_t CountSessions() override { return usage().sessions; }
  Usage usage() override;
  absl::Status Flush() override;

 private:
  using Reply = RedisConnection::Reply;

  explicit RedisStore(const RedisOptions& options)
      : options_(options), connection_(options.address) {}
  // Runs a script; its answer, if it is an OK.
  absl::StatusOr<Reply> Call(absl::string_view script,
                             absl::Span<const absl::string_view> arguments,
                             Durability durability = Durability::kAsync);
  absl::StatusOr<Reply> Call(absl::string_view script,
                             std::initializer_list<absl::string_view> arguments,
                             Durability durability = Durability::kAsync) {
    return Call(script, absl::MakeConstSpan(arguments.begin(), arguments.size()), durability);
  }

  const RedisOptions options_;
  absl::Mutex mu_;
  RedisConnection connection_ ABSL_GUARDED_BY(mu_);
  bool replicated_ ABSL_GUARDED_BY(mu_) = true;  // The last write that waited for replicas.
  Usage usage_ ABSL_GUARDED_BY(mu_) = {};
};

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_REDIS_STORE_H_
