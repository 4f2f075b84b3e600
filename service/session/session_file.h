// A session as a file: .safetensors, which any tool opens. Version 1 holds
//   tokens                int32 [position]
//   state.<layer>.fixed   float32 [floats], where the layer has some of fixed size
//   state.<layer>.pages   float32 [pages, floats], where it has some that grow: those of its last
//                         positions, as many as later tokens can see
// and, as metadata (all text, numbers in decimal): format, version, model, weights_hash, seed,
// sampler, position, chain_hash (hex), state_position (tokens that the states have read), labels (a
// JSON object), and sha256 (hex) over all other metadata ("key=value\n" in order of keys) and the
// tensors' bytes in order.
//
// An operator's session has tensors state.<input> instead ("state.initial_state"), of the types and
// shapes that the operator hands on, and in place of model, weights_hash, sampler and
// state_position: op, attributes (a JSON object, as protobuf has AttributeValue) and kernel.
#ifndef ATTND_SERVICE_SESSION_SESSION_FILE_H_
#define ATTND_SERVICE_SESSION_SESSION_FILE_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "attnd/v1/session_record.pb.h"
#include "attnd/v1/sessions.pb.h"
#include "models/language_model.h"
#include "models/sequence_state.h"

namespace attnd {

struct SessionFile {
  std::string model;
  std::string weights_hash;
  uint64_t seed = 0;
  std::map<std::string, std::string> labels;
  std::vector<int32_t> tokens;
  // Of an operator's session.
  std::string op;
  google::protobuf::Map<std::string, v1::AttributeValue> attributes;
  std::string kernel;
  std::string chain_hash;
  v1::OperatorState state;  // Without tensors: nothing was read.
};

// `state` has read at most all of the file's tokens; it is in the host's memory, a copy perhaps of
// one that a device of the kind `device` computed.
std::string FormatSessionFile(const SessionFile& session, absl::string_view chain_hash,
                              const models::SequenceState& state, Device device);

std::string FormatOperatorFile(const SessionFile& session);

// INVALID_ARGUMENT for bytes that are no such file; FAILED_PRECONDITION for another version;
// DATA_LOSS if they are not those that were written.
absl::StatusOr<SessionFile> ParseSessionFile(absl::string_view file);

// The state of a file that ParseSessionFile took. FAILED_PRECONDITION if it is none of this model,
// or was computed by a device of another kind than the model runs on.
absl::StatusOr<models::SequenceState> StateOfSessionFile(absl::string_view file,
                                                         const models::LanguageModel& model);

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_SESSION_FILE_H_
