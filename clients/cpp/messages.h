// Calls and results as messages, whole or in chunks.
#ifndef ATTND_CLIENTS_CPP_MESSAGES_H_
#define ATTND_CLIENTS_CPP_MESSAGES_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "attnd/client.h"
#include "attnd/v1/operators.pb.h"

namespace attnd::client {

int64_t InputBytes(const Call& call);

// The whole call; the bytes of its tensors are moved, not copied.
v1::EvaluateRequest ToRequest(Call&& call);

// Takes the outputs' bytes out of the message. INTERNAL if a tensor's bytes do not fit its shape.
absl::StatusOr<Result> FromResponse(v1::EvaluateResponse& response);

// Cuts a call into the messages of EvaluateStream.
class ChunkWriter {
 public:
  explicit ChunkWriter(v1::EvaluateRequest request);
  // The next message; false when all are out.
  bool Next(v1::EvaluateChunk& chunk);

 private:
  std::map<std::string, std::string> inputs_;  // Their bytes.
  v1::EvaluateRequest header_;
  bool header_out_ = false;
  std::map<std::string, std::string>::const_iterator tensor_;
  size_t offset_ = 0;
};

// Puts the messages of a streamed answer together. INTERNAL if they do not follow the protocol.
class ChunkReader {
 public:
  absl::Status Take(v1::EvaluateChunk& chunk);
  // After the last chunk.
  absl::StatusOr<Result> Finish();

 private:
  bool header_seen_ = false;
  v1::EvaluateResponse response_;
  // Bytes each output must reach.
  std::map<std::string, int64_t> expected_;
};

}  // namespace attnd::client

#endif  // ATTND_CLIENTS_CPP_MESSAGES_H_
