// Language models of a server.
#ifndef ATTND_CLIENT_MODELS_H_
#define ATTND_CLIENT_MODELS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "attnd/client.h"
#include "attnd/v1/models.pb.h"

namespace attnd::client {

// Threads may share it; copies use the same connection. Calls block, and are repeated after
// UNAVAILABLE as those of Sessions are. Errors are those of the server (attnd/v1/models.proto).
class Models {
 public:
  explicit Models(const Client& client, absl::Duration patience = absl::Seconds(30));
  ~Models();
  Models(const Models&);
  Models& operator=(const Models&);

  absl::StatusOr<std::vector<v1::Model>> List() const;
  absl::StatusOr<v1::Model> Load(const std::string& name) const;
  absl::Status Unload(const std::string& name) const;
  // Hands every event to `take`, in order; UNAVAILABLE ends it once one came. CANCELLED where
  // `take` says false.
  absl::Status Generate(const v1::GenerateRequest& request,
                        absl::FunctionRef<bool(const v1::DecodeEvent&)> take) const;
  absl::StatusOr<v1::ScoreResponse> Score(const v1::ScoreRequest& request) const;

 private:
  class Calls;
  std::shared_ptr<const Calls> calls_;
};

}  // namespace attnd::client

#endif  // ATTND_CLIENT_MODELS_H_
