// A session as its log tells it: tokens, decodes, and what became of every request. No clock, no
// thread, no model: records go in, facts come out, the same whenever the same records are read
// again.
#ifndef ATTND_SERVICE_SESSION_SESSION_LOG_H_
#define ATTND_SERVICE_SESSION_SESSION_LOG_H_

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "attnd/v1/session_record.pb.h"

namespace attnd {

class SessionLog {
 public:
  // A decode: from its first token to its end, if it has one yet.
  struct Decode {
    uint64_t begin = 0;
    uint64_t end = 0;  // After its last token so far.
    v1::SessionRecord::DecodeBegun request;
    std::optional<v1::FinishReason> finish;
    std::vector<v1::SampledToken> tokens;
  };

  // A mutation that may be repeated: where it left the session. One without a key of its own is
  // known by the position at which it began.
  struct Request {
    uint64_t hash = 0;
    uint64_t position = 0;  // Before it.
    uint64_t end = 0;       // After it; of a decode, so far.
    int64_t decode = -1;    // Index of the decode that it began, or -1.
  };

  // Keys are remembered for this many requests.
  static constexpr size_t kRemembered = 1000;

  // Checks a record against what came before and applies it. INTERNAL for a record that cannot
  // follow (a log of another session, or damage that checksums missed); nothing has changed then.
  absl::Status Apply(const v1::SessionRecord& record);

  const v1::SessionRecord::Created& created() const { return created_; }
  absl::Span<const int32_t> tokens() const { return tokens_; }
  uint64_t position() const { return tokens_.size(); }
  // Records applied.
  uint64_t size() const { return size_; }

  // The decode under way or cut, or null.
  const Decode* open_decode() const;
  // Index of the last decode, -1 if there was none.
  int64_t last_decode() const { return static_cast<int64_t>(decodes_.size()) - 1; }
  const Decode& decode(int64_t index) const { return decodes_[static_cast<size_t>(index)]; }

  // The mutation with that key, or without one the last that began at that position and had none;
  // null if there was none.
  const Request* FindRequest(absl::string_view key, std::optional<uint64_t> position) const;

  // Over the seed and all tokens: h_0 = SHA-256(seed), h_p = SHA-256(h_(p-1), token p-1). Equal
  // hashes, equal streams.
  const std::string& chain_hash() const { return chain_hash_; }
  static std::string Chain(absl::string_view hash, int32_t token);
  // Of the first `position` tokens; costs as much as there are tokens, unless it is the end.
  std::string ChainHashAt(uint64_t position) const;

 private:
  absl::Status Check(const v1::SessionRecord& record) const;
  void Push(int32_t token);
  void Truncate(uint64_t position);
  void Remember(const v1::SessionRecord& record, uint64_t begin, int64_t decode);

  v1::SessionRecord::Created created_;
  std::vector<int32_t> tokens_;
  std::vector<Decode> decodes_;
  std::map<std::string, Request, std::less<>> requests_;
  std::deque<std::string> order_;
  uint64_t size_ = 0;
  std::string chain_hash_;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_SESSION_LOG_H_
