// What an operator's session has read: appends, one behind another, each known by the record of the
// log that holds its inputs.
#ifndef ATTND_SERVICE_SESSION_INPUT_PATH_H_
#define ATTND_SERVICE_SESSION_INPUT_PATH_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace attnd {

class InputPath {
 public:
  struct Step {
    uint64_t end;      // Position behind it.
    uint64_t record;   // Its number in the log.
    std::string hash;  // Of everything up to its end.
    uint64_t offset;   // Bytes of the log before its record.
  };

  InputPath() = default;
  // One that begins behind `position` positions that are not known any more but by a hash.
  InputPath(uint64_t position, std::string hash) : base_(position), base_hash_(std::move(hash)) {}

  uint64_t base() const { return base_; }
  uint64_t position() const { return steps_.empty() ? base_ : steps_.back().end; }
  const std::string& hash() const { return steps_.empty() ? base_hash_ : steps_.back().hash; }
  absl::Span<const Step> steps() const { return steps_; }

  // Steps that end at `position` or before; positions between two ends count for the first.
  size_t StepsUpTo(uint64_t position) const;
  // Whether a step ends at `position`, or the path begins there.
  bool HasEnd(uint64_t position) const;
  // The hash there; empty where no step ends.
  std::string HashAt(uint64_t position) const;
  // The ends around `position`, as text: "4 and 8".
  std::string EndsAround(uint64_t position) const;

  // The base and the first end behind it, as text: "4 and 8".
  std::string EndsFromBase() const;

  // `digest` is of what the step reads.
  void Push(uint64_t length, uint64_t record, absl::string_view digest, uint64_t offset = 0);
  // One that was before, behind the last.
  void Push(Step step) { steps_.push_back(std::move(step)); }
  // Back to an end.
  void Truncate(uint64_t position);
  // Where two paths part, if they have a position in common that both can still tell; 0 otherwise.
  uint64_t CommonWith(const InputPath& other) const;

 private:
  uint64_t base_ = 0;
  std::string base_hash_;
  std::vector<Step> steps_;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_INPUT_PATH_H_
