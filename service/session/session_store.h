// Where sessions live when no memory holds them: an append-only log of each session's records, and
// states at some of its positions.
//
// Truth is the log; states are caches of it that save replaying. A record or a state that comes
// back is the one that was put, whole: what the medium damaged is DATA_LOSS, never something else.
#ifndef ATTND_SERVICE_SESSION_SESSION_STORE_H_
#define ATTND_SERVICE_SESSION_SESSION_STORE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace attnd {

// What a put survives.
enum class Durability : uint8_t {
  kNone,   // Nothing: it may never leave memory.
  kAsync,  // The end of the process, and of the machine but for the last moments.
  kSync,   // The end of the machine, once the call returns.
};

// Safe from many threads; calls for one session come from one at a time. Session ids are keys of 1
// to 256 bytes and mean nothing to the store. Errors: NOT_FOUND; ABORTED from an owner whose epoch
// is not the session's any more; RESOURCE_EXHAUSTED for a quota or a full disk: nothing has changed
// then; DATA_LOSS for damage, naming the session and what is damaged; UNAVAILABLE if the medium is
// out of reach: repeat it.
class SessionStore {
 public:
  struct StateInfo {
    uint64_t position;
    uint64_t bytes;
    std::string label;  // Empty but for states that a client asked to keep.
  };

  // One change of a session's log.
  struct Record {
    uint64_t sequence;  // Counts from 0, without gaps; a trimmed log begins later.
    std::string bytes;
  };

  virtual ~SessionStore() = default;

  // Takes the session (a new one, or one that exists) for this owner and returns its epoch, which
  // is larger than any before. Later calls that carry a smaller epoch are ABORTED.
  virtual absl::StatusOr<uint64_t> Acquire(absl::string_view session) = 0;

  // Appends the record with that sequence number. One that is there already with the same bytes is
  // OK, with others, or where the log was trimmed, FAILED_PRECONDITION; one that leaves a gap is
  // INVALID_ARGUMENT.
  virtual absl::Status Append(absl::string_view session, uint64_t epoch, const Record& record,
                              Durability durability) = 0;
  // Many sessions' records as one write: all or none.
  struct Entry {
    std::string session;
    uint64_t epoch;
    Record record;
  };
  virtual absl::Status AppendAll(absl::Span<const Entry> entries, Durability durability) = 0;

  // Puts the record in the place of the one of its number, and forgets all before it: the log
  // begins there then. INVALID_ARGUMENT for a number that the log does not have (any more).
  virtual absl::Status TrimLog(absl::string_view session, uint64_t epoch, const Record& record,
                               Durability durability) = 0;

  // Records from `first` on, or from where the log begins, in order; `most` of them at most.
  static constexpr uint64_t kAll = ~uint64_t{0};
  virtual absl::StatusOr<std::vector<Record>> ReadLog(absl::string_view session, uint64_t first = 0,
                                                      uint64_t most = kAll) = 0;

  // Keeps a state for its position, instead of one that is there. `state` is the concatenation of
  // the parts.
  virtual absl::Status PutState(absl::string_view session, uint64_t epoch, const StateInfo& info,
                                absl::Span<const absl::string_view> parts,
                                Durability durability) = 0;
  // The state of the largest position that is at most `position`. NOT_FOUND if there is none. A
  // damaged one is reported, not passed over: the caller decides to look for an older one, before
  // info->position where that is known, which is left as it is otherwise.
  virtual absl::StatusOr<std::string> GetState(absl::string_view session, uint64_t position,
                                               StateInfo* info) = 0;
  virtual absl::StatusOr<std::vector<StateInfo>> ListStates(absl::string_view session) = 0;
  virtual absl::Status DropState(absl::string_view session, uint64_t epoch, uint64_t position) = 0;

  // When the session ends unless this is called again, in seconds since 1970; 0: never.
  virtual absl::Status SetExpiry(absl::string_view session, uint64_t epoch, uint64_t seconds) = 0;
  // Sessions that end at `seconds` or before, the earliest first, `limit` at most.
  virtual absl::StatusOr<std::vector<std::string>> ListExpired(uint64_t seconds, size_t limit) = 0;

  // Forgets the session, its log and its states. Deleting one that is not there is OK.
  virtual absl::Status Delete(absl::string_view session, uint64_t epoch) = 0;
  // Ids that begin with `prefix`, in order, from after `after` on, `limit` at most.
  virtual absl::StatusOr<std::vector<std::string>> List(absl::string_view prefix,
                                                        absl::string_view after, size_t limit) = 0;

  struct Usage {
    uint64_t sessions;
    uint64_t log_bytes;
    uint64_t state_bytes;       // Live.
    uint64_t state_file_bytes;  // On the medium, dead ones included.
  };
  virtual Usage usage() = 0;
  // How many there are; cheaper than all of usage().
  virtual uint64_t CountSessions() = 0;

  // All that was put is as durable as kSync makes it.
  virtual absl::Status Flush() = 0;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_SESSION_STORE_H_
