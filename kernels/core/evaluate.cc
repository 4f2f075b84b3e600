#include "kernels/core/evaluate.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/core/staged_call.h"
#include "kernels/primitives/composer.h"

namespace attnd {
namespace {

absl::StatusOr<NamedTensors> FetchOutputs(Backend& backend, NamedTensors outputs) {
  if (backend.device() == Device::kCpu) return outputs;
  NamedTensors host;
  for (const auto& [name, device] : outputs) {
    absl::StatusOr<Tensor> copy = AllocateHost(device.dtype(), device.shape());
    if (!copy.ok()) return copy.status();
    if (absl::Status s = backend.Download(device, *copy); !s.ok()) return s;
    host.Set(name, *std::move(copy));
  }
  return host;
}

// The part of an output of a packed call that one sequence writes: tokens for [B,T,...], a row for
// [M,...].
Tensor OutputOfSequence(const Port& port, const Tensor& whole, const Sequence& sequence) {
  // Keys follow the queries: a packed operator's S is its T.
  if (port.AxisOf("B") == 0 && (port.AxisOf("T") == 1 || port.AxisOf("S") == 1)) {
    return whole.Slice(0, sequence.row, 1).Slice(1, sequence.begin, sequence.length);
  }
  return whole.Slice(0, port.AxisOf("M") == 0 ? sequence.state : sequence.row, 1);
}

absl::Status RunDefinition(const Operator& op, Backend& backend, const BoundCall& call,
                           const NamedTensors& outputs, bool with_kernels) {
  const Composer::Parts others = {op.registry, with_kernels};
  if (!call.packed() || !op.spec.text().packed_by_sequence) {
    Composer composer(backend, call, outputs, others);
    return op.definition(composer);
  }
  for (const Sequence& sequence : call.sequences()) {
    const BoundCall one = call.SequenceCall(sequence);
    NamedTensors parts;
    for (const BoundCall::OutputSpec& spec : call.outputs()) {
      parts.Set(spec.name, OutputOfSequence(*op.spec.FindOutput(spec.name),
                                            *outputs.Find(spec.name), sequence));
    }
    Composer composer(backend, one, parts, others);
    if (absl::Status s = op.definition(composer); !s.ok()) return s;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status RunComposed(const Operator& op, Backend& backend, const BoundCall& call,
                         const NamedTensors& outputs) {
  return RunDefinition(op, backend, call, outputs, false);
}

absl::Status RunOfParts(const Operator& op, Backend& backend, const BoundCall& call,
                        const NamedTensors& outputs) {
  return RunDefinition(op, backend, call, outputs, true);
}

absl::StatusOr<BoundCall> BindAndCheck(const Operator& op, const CallRequest& request) {
  absl::StatusOr<BoundCall> call = Bind(op.spec, request);
  if (!call.ok() || !op.check) return call;
  if (absl::Status s = op.check(*call); !s.ok()) return s;
  return call;
}

absl::StatusOr<Evaluation> EvaluateBound(const Operator& op, Backend& backend,
                                         const BoundCall& call, absl::string_view forced) {
  if (call.dtype() == DType::kFloat64 && backend.device() != Device::kCpu) {
    return absl::InvalidArgumentError(absl::StrCat(
        op.spec.id(), ": given float64 inputs on ", Name(backend.device()),
        ", expected float32, float16 or bfloat16: float64 is computed on the CPU only"));
  }
  absl::StatusOr<StagedCall> staged = StagedCall::Create(op, backend, call, forced);
  if (!staged.ok()) return staged.status();

  const absl::Time start = absl::Now();
  if (absl::Status s = staged->Run(); !s.ok()) return s;
  if (absl::Status s = backend.Synchronize(); !s.ok()) return Annotate(op, s);
  const absl::Duration compute = absl::Now() - start;

  absl::StatusOr<NamedTensors> host = FetchOutputs(backend, staged->outputs());
  if (!host.ok()) return Annotate(op, host.status());
  const Kernel* kernel = staged->kernel();
  return Evaluation{*std::move(host), kernel != nullptr ? kernel->name : "composed", backend.name(),
                    compute};
}

absl::StatusOr<Evaluation> Evaluate(const Operator& op, Backend& backend,
                                    const CallRequest& request) {
  absl::StatusOr<BoundCall> call = BindAndCheck(op, request);
  if (!call.ok()) return call.status();
  return EvaluateBound(op, backend, *call, request.kernel);
}

absl::StatusOr<Evaluation> EvaluateReference(const Operator& op, Backend& cpu,
                                             const CallRequest& request) {
  CallRequest wide = request;
  for (auto& [name, tensor] : wide.inputs) {
    const Port* port = op.spec.FindInput(name);
    if (port == nullptr || (port->type != PortType::kFloat && port->type != PortType::kFloat32) ||
        !IsFloating(tensor.dtype())) {
      continue;  // Bind says what is wrong, if anything is.
    }
    absl::StatusOr<Tensor> copy = AllocateHost(DType::kFloat64, tensor.shape());
    if (!copy.ok()) return copy.status();
    cpu.Copy(tensor, *copy);
    tensor = *std::move(copy);
  }
  wide.kernel = "composed";
  return Evaluate(op, cpu, wide);
}

}  // namespace attnd
