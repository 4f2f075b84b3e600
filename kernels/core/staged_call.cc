#include "kernels/core/staged_call.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/evaluate.h"

namespace attnd {

absl::Status Annotate(const Operator& op, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(op.spec.id(), ": ", status.message()));
}

namespace {

// Copies of the call's inputs in the backend's memory.
absl::StatusOr<NamedTensors> StageInputs(Backend& backend, const BoundCall& call) {
  NamedTensors staged;
  for (const auto& [name, host] : call.inputs()) {
    absl::StatusOr<Tensor> device = backend.Allocate(host.dtype(), host.shape());
    if (!device.ok()) return device.status();
    if (absl::Status s = backend.Upload(host, *device); !s.ok()) return s;
    staged.Set(name, *std::move(device));
  }
  return staged;
}

absl::StatusOr<NamedTensors> AllocateOutputs(Backend& backend, const BoundCall& call) {
  NamedTensors outputs;
  for (const BoundCall::OutputSpec& spec : call.outputs()) {
    absl::StatusOr<Tensor> out = backend.Allocate(spec.dtype, spec.shape);
    if (!out.ok()) return out.status();
    outputs.Set(spec.name, *std::move(out));
  }
  return outputs;
}

}  // namespace

absl::StatusOr<StagedCall> StagedCall::Create(const Operator& op, Backend& backend,
                                              const BoundCall& call, absl::string_view forced) {
  const absl::StatusOr<const Kernel*> kernel = SelectKernel(op, call, backend.device(), forced);
  if (!kernel.ok()) return kernel.status();
  StagedCall staged(op, backend, call, *kernel);
  if (backend.device() != Device::kCpu) {
    absl::StatusOr<NamedTensors> inputs = StageInputs(backend, call);
    if (!inputs.ok()) return Annotate(op, inputs.status());
    staged.staged_ = call.WithInputs(*std::move(inputs));
    staged.call_ = nullptr;
  }
  absl::StatusOr<NamedTensors> outputs = AllocateOutputs(backend, call);
  if (!outputs.ok()) return Annotate(op, outputs.status());
  staged.outputs_ = *std::move(outputs);
  return staged;
}

absl::Status StagedCall::Run() const {
  const BoundCall& call = call_ != nullptr ? *call_ : staged_;
  return Annotate(*op_, kernel_ != nullptr ? kernel_->run(*backend_, call, outputs_)
                                           : RunComposed(*op_, *backend_, call, outputs_));
}

}  // namespace attnd
