// What both protocols do with a call beyond its tensors: which outputs are wanted, until when, for
// whom.
#ifndef ATTND_SERVICE_RPC_CALL_PARTS_H_
#define ATTND_SERVICE_RPC_CALL_PARTS_H_

#include <grpcpp/server_context.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/core/call.h"
#include "kernels/core/registry.h"
#include "service/engine.h"

namespace attnd {

// The client's deadline on the wall clock.
absl::Time DeadlineOf(const grpc::ServerContextBase& context);

// Checks the names of outputs that a client wants.
absl::Status CheckWantedNames(const OpSpec& spec, const std::vector<std::string>& wanted);

// The same; and those that exist only under a condition are checked against the call itself, so
// that a wrong wish is refused before anything runs.
absl::Status CheckWanted(const Operator& op, const CallRequest& request,
                         const std::vector<std::string>& wanted);

// The wanted outputs in the order wished for, all in schema order if `wanted` is empty; contiguous.
absl::StatusOr<NamedTensors> SelectOutputs(absl::string_view op, const Evaluation& evaluation,
                                           const std::vector<std::string>& wanted);

// Counts a call that its handler refused with `status`.
void NoteRefused(Engine& engine, const absl::Status& status);

// A unary RPC whose answer comes later. Owns itself until gRPC is done with it.
class UnaryCall final : public grpc::ServerUnaryReactor {
 public:
  static std::shared_ptr<UnaryCall> Start() {
    auto call = std::make_shared<UnaryCall>();
    call->self_ = call;
    return call;
  }

  const std::shared_ptr<CancelToken>& cancel() const { return cancel_; }
  void OnCancel() override { cancel_->Cancel(); }
  void OnDone() override { const std::shared_ptr<UnaryCall> last = std::move(self_); }

 private:
  // Its reactions are a flag and a release: gRPC need not wake another thread for them, which costs
  // a small call more than its arithmetic.
  bool InternalInlineable() override { return true; }

  std::shared_ptr<CancelToken> cancel_ = std::make_shared<CancelToken>();
  std::shared_ptr<UnaryCall> self_;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_RPC_CALL_PARTS_H_
