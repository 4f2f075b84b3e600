// Running a call: choose a kernel, stage tensors, run, bring outputs back.
#ifndef ATTND_KERNELS_CORE_EVALUATE_H_
#define ATTND_KERNELS_CORE_EVALUATE_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/core/call.h"
#include "kernels/core/registry.h"
#include "kernels/primitives/primitives.h"

namespace attnd {

struct Evaluation {
  NamedTensors outputs;  // Host tensors, in the order of the schema.
  std::string kernel;    // "composed" or the kernel's name.
  std::string device;    // Backend::name().
  absl::Duration
      compute;  // From the first queued work to the last result, staging excluded where known.
};

// Validates (schema, then the operator's own check), then evaluates. See EvaluateBound for errors.
absl::StatusOr<Evaluation> Evaluate(const Operator& op, Backend& backend,
                                    const CallRequest& request);

// Bind plus the operator's own check of values.
absl::StatusOr<BoundCall> BindAndCheck(const Operator& op, const CallRequest& request);

// Evaluates a call that BindAndCheck accepted. float64 calls run the composed definition, on the
// CPU alone: INVALID_ARGUMENT on another device. RESOURCE_EXHAUSTED if memory does not suffice.
absl::StatusOr<Evaluation> EvaluateBound(const Operator& op, Backend& backend,
                                         const BoundCall& call, absl::string_view kernel);

// The float64 definition of the same call on the CPU: every floating input widened, the composed
// form.
absl::StatusOr<Evaluation> EvaluateReference(const Operator& op, Backend& cpu,
                                             const CallRequest& request);

// Runs the composed definition on tensors that are already in the backend's memory; packed calls
// one sequence at a time unless the schema says that the operator handles them.
absl::Status RunComposed(const Operator& op, Backend& backend, const BoundCall& call,
                         const NamedTensors& outputs);
// The same, but that the operators which the definition calls run their kernels.
absl::Status RunOfParts(const Operator& op, Backend& backend, const BoundCall& call,
                        const NamedTensors& outputs);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORE_EVALUATE_H_
