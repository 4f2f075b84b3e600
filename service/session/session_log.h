// A session as its log tells it: tokens (or what an operator read), decodes, and what became of
// every request. No clock, no thread, no model: records go in, facts come out, the same whenever
// the same records are read again.
#ifndef ATTND_SERVICE_SESSION_SESSION_LOG_H_
#define ATTND_SERVICE_SESSION_SESSION_LOG_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "attnd/v1/session_record.pb.h"
#include "service/session/input_path.h"

namespace attnd {

class SessionLog {
 public:
  // A decode: from its first token to its end, if it has one yet.
  struct Decode {
    uint64_t begin = 0;
    uint64_t end = 0;        // After its last token so far.
    std::string begin_hash;  // Chain hash before its first token.
    v1::SessionRecord::DecodeBegun request;
    std::optional<v1::FinishReason> finish;
    std::vector<v1::SampledToken> tokens;
  };

  // A mutation that may be repeated: where it left the session. One without a key of its own is
  // known by the position at which it began, until another change leaves that position behind: then
  // the session may come there again, and what begins there is something new.
  struct Request {
    uint64_t hash = 0;
    uint64_t position = 0;  // Before it.
    uint64_t end = 0;       // After it; of a decode, so far.
    int64_t decode = -1;    // Index of the decode that it began, or -1.
  };

  // A named point. Its tokens (or its path) are its own: the session's may be others by now.
  struct Snapshot {
    std::shared_ptr<const std::vector<int32_t>> tokens;
    std::string chain_hash;
    std::shared_ptr<const InputPath> path = nullptr;
    uint64_t position() const { return path != nullptr ? path->position() : tokens->size(); }
  };
  using Snapshots = std::map<std::string, Snapshot, std::less<>>;

  // Requests are remembered for this many keys, and for this many positions.
  static constexpr size_t kRemembered = 1000;

  // Checks a record against what came before and applies it. INTERNAL for a record that cannot
  // follow (a log of another session, or damage that checksums missed); nothing has changed then. A
  // trimmed log's first record is applied first, or to the log that it was made of. `parent`: of a
  // fork its parent's log, which saves hashing the tokens that both have; or null.
  absl::Status Apply(const v1::SessionRecord& record, const SessionLog* parent = nullptr);

  const v1::SessionRecord::Created& created() const { return created_; }
  absl::Span<const int32_t> tokens() const { return tokens_; }
  // Of an operator's session, which has no tokens.
  bool is_operator() const { return !created_.op().empty(); }
  const InputPath& path() const { return path_; }
  // Of an operator's session: bytes of the records that the log holds, and of those behind the
  // first append from `position` on, what was taken back included.
  uint64_t log_bytes() const { return log_bytes_; }
  uint64_t BytesBehind(uint64_t position) const;
  // The number of the record that the log of an operator's session begins with.
  uint64_t first_record() const { return first_record_; }
  // An operator's log without the inputs before `position`, an end of its path: the record
  // (Trimmed) to put in the place of the one with the number `first`, but for states.
  struct Trim {
    uint64_t first;
    uint64_t position;
    v1::SessionRecord record;
  };
  Trim TrimmedTo(uint64_t position) const;
  uint64_t position() const { return is_operator() ? path_.position() : tokens_.size(); }
  // Whether the session can go back there: OUT_OF_RANGE naming the positions that it has.
  absl::Status CheckRetained(uint64_t position) const;
  // Records applied, or known by a trimmed log's first.
  uint64_t size() const { return size_; }
  // About what it takes in memory, but for snapshots.
  int64_t byte_size() const;

  // The decode under way or cut, or null.
  const Decode* open_decode() const;
  // Index of the last decode, -1 if there was none.
  int64_t last_decode() const { return static_cast<int64_t>(decodes_.size()) - 1; }
  const Decode& decode(int64_t index) const { return decodes_[static_cast<size_t>(index)]; }

  const Snapshots& snapshots() const { return snapshots_; }
  // Positions that the session and the snapshot begin with alike.
  uint64_t CommonWith(const Snapshot& snapshot) const;

  // The request that created the session.
  const Request& creation() const { return creation_; }
  const std::string& creation_key() const { return creation_key_; }
  // The mutation with that key, or without one the last that began at that position and had none;
  // null if there was none.
  const Request* FindRequest(absl::string_view key, std::optional<uint64_t> position) const;

  // Over the seed and all tokens: h_0 = SHA-256(seed), h_p = SHA-256(h_(p-1), token p-1); of an
  // operator's session over what its appends read. Equal hashes, equal streams.
  const std::string& chain_hash() const { return is_operator() ? path_.hash() : chain_hash_; }
  static std::string Chain(absl::string_view hash, int32_t token);
  // Of the first `position` tokens; costs kMarkEvery hashes at most. Of an operator's session empty
  // where no append ends.
  std::string ChainHashAt(uint64_t position) const;
  static std::string ChainHashOf(uint64_t seed, absl::Span<const int32_t> tokens);
  // Of the first `position` tokens of a snapshot.
  std::string ChainHashOf(const Snapshot& snapshot, uint64_t position) const;

 private:
  absl::Status Check(const v1::SessionRecord& record) const;
  void ApplyTrimmed(const v1::SessionRecord& record);
  void Push(int32_t token);
  void Begin(const SessionLog* parent);
  void Truncate(uint64_t position);
  void EndOpenDecode();
  void Remember(const v1::SessionRecord& record, uint64_t begin, int64_t decode);

  // A chain hash is kept for every multiple of this.
  static constexpr uint64_t kMarkEvery = 256;

  v1::SessionRecord::Created created_;
  std::vector<int32_t> tokens_;
  InputPath path_;
  std::vector<Decode> decodes_;
  Snapshots snapshots_;
  Request creation_;
  std::string creation_key_;
  std::map<std::string, Request, std::less<>> keyed_;
  std::deque<std::string> order_;        // Of keys, the oldest first.
  std::map<uint64_t, Request> unkeyed_;  // By the position at which they began.
  uint64_t size_ = 0;
  uint64_t log_bytes_ = 0;
  uint64_t first_record_ = 0;
  size_t sampled_ = 0;  // Tokens of all decodes.
  std::string chain_hash_;
  std::vector<std::string> marks_;  // After 0, kMarkEvery, ... tokens.
};

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_SESSION_LOG_H_
