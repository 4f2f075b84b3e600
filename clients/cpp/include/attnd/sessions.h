// Decode sessions of a server.
//
//   client::Sessions sessions(client);
//   sessions.Append(request);
//   sessions.Decode(request, [](const v1::DecodeEvent& event) { ... return true; });
//
// Every mutation happens once: one that names neither a position nor a key is given a key, and what
// ends in UNAVAILABLE is repeated, a stream from where it broke, until Patience is over. Other
// errors are those of the server (attnd/v1/sessions.proto).
#ifndef ATTND_CLIENT_SESSIONS_H_
#define ATTND_CLIENT_SESSIONS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "attnd/client.h"
#include "attnd/v1/models.pb.h"
#include "attnd/v1/sessions.pb.h"

namespace attnd::client {

// What an append of tensors to an operator's session gave.
struct Fed {
  Result result;  // Outputs, kernel and device.
  uint64_t position = 0;
  bool repeated = false;
};

// Threads may share it; copies use the same connection. Calls block.
class Sessions {
 public:
  // Shares the client's connection, its metadata and its timeout, which counts for each attempt but
  // those of streams. `patience`: how long a server that cannot be reached is waited for, each time
  // anew.
  explicit Sessions(const Client& client, absl::Duration patience = absl::Seconds(30));
  ~Sessions();
  Sessions(const Sessions&);
  Sessions& operator=(const Sessions&);

  absl::StatusOr<v1::Session> Create(v1::CreateSessionRequest request) const;
  // Of an operator, with attributes of all its calls.
  absl::StatusOr<v1::Session> Create(v1::CreateSessionRequest request,
                                     const std::map<std::string, Attribute>& attributes) const;
  absl::StatusOr<v1::Session> Get(const std::string& session) const;
  // All of them whose names begin with `prefix`.
  absl::StatusOr<std::vector<v1::Session>> List(const std::string& prefix = "") const;
  absl::StatusOr<v1::AppendResponse> Append(v1::AppendRequest request) const;
  // To an operator's session.
  absl::StatusOr<Fed> Feed(v1::AppendRequest request, std::map<std::string, Tensor> inputs) const;
  absl::StatusOr<v1::Session> Fork(v1::ForkRequest request) const;
  absl::StatusOr<v1::Session> Rewind(v1::RewindRequest request) const;
  absl::StatusOr<v1::SnapshotInfo> Snapshot(v1::SnapshotRequest request) const;
  absl::StatusOr<std::vector<v1::SnapshotInfo>> ListSnapshots(const std::string& session) const;
  absl::StatusOr<v1::Session> Restore(v1::RestoreRequest request) const;
  absl::Status DeleteSnapshot(const std::string& session, const std::string& snapshot) const;
  absl::Status Delete(const std::string& session) const;

  // Hands every event to `take`, once and in order. CANCELLED where `take` says false: the session
  // then holds at least what was taken.
  absl::Status Decode(v1::DecodeRequest request,
                      absl::FunctionRef<bool(const v1::DecodeEvent&)> take) const;

  // The bytes of a .safetensors file. DATA_LOSS if they were damaged on their way.
  absl::StatusOr<std::string> Export(const std::string& session) const;
  absl::StatusOr<v1::Session> Import(v1::ImportHeader header, absl::string_view file) const;

 private:
  class Calls;
  std::shared_ptr<const Calls> calls_;
};

}  // namespace attnd::client

#endif  // ATTND_CLIENT_SESSIONS_H_
