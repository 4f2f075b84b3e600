// A call in a backend's memory, ready to run once or many times.
#ifndef ATTND_KERNELS_CORE_STAGED_CALL_H_
#define ATTND_KERNELS_CORE_STAGED_CALL_H_

#include "absl/status/statusor.h"
#include "kernels/core/call.h"
#include "kernels/core/registry.h"
#include "kernels/primitives/primitives.h"

namespace attnd {

// An error with the operator's id before its message.
absl::Status Annotate(const Operator& op, const absl::Status& status);

class StagedCall {
 public:
  // Chooses the kernel (SelectKernel, with its errors), copies the inputs of `call`, which
  // BindAndCheck accepted, and allocates its outputs: RESOURCE_EXHAUSTED if they do not fit.
  // Everything given outlives the staged call.
  static absl::StatusOr<StagedCall> Create(const Operator& op, Backend& backend,
                                           const BoundCall& call, absl::string_view kernel);

  // Queues the work; the outputs hold its results once the backend is synchronised.
  absl::Status Run() const;

  // Null: the composed definition.
  const Kernel* kernel() const { return kernel_; }
  // In the backend's memory, in the order of the schema.
  const NamedTensors& outputs() const { return outputs_; }

 private:
  StagedCall(const Operator& op, Backend& backend, const BoundCall& call, const Kernel* kernel)
      : op_(&op), backend_(&backend), call_(&call), kernel_(kernel) {}

  const Operator* op_;
  Backend* backend_;
  const BoundCall* call_;
  const Kernel* kernel_;
  BoundCall staged_;  // Not on the host, where the call's own tensors are the backend's.
  NamedTensors outputs_;
};

}  // namespace attnd

#endif  // ATTND_KERNELS_CORE_STAGED_CALL_H_
