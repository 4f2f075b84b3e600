#include "kernels/core/evaluate.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/primitives/composer.h"

namespace attnd {
namespace {

absl::Status Annotate(const Operator& op, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat(op.spec.id(), ": ", status.message()));
}

// Copies of the call's inputs in the backend's memory; the host's own tensors where that is the
// host.
absl::StatusOr<NamedTensors> StageInputs(Backend& backend, const BoundCall& call) {
  if (backend.device() == Device::kCpu) return call.inputs();
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
  if (port.AxisOf("B") == 0 && port.AxisOf("T") == 1) {
    return whole.Slice(0, sequence.row, 1).Slice(1, sequence.begin, sequence.length);
  }
  return whole.Slice(0, port.AxisOf("M") == 0 ? sequence.state : sequence.row, 1);
}

}  // namespace

absl::Status RunComposed(const Operator& op, Backend& backend, const BoundCall& call,
                         const NamedTensors& outputs) {
  if (!call.packed() || !op.spec.text().packed_by_sequence) {
    Composer composer(backend, call, outputs);
    return op.definition(composer);
  }
  for (const Sequence& sequence : call.sequences()) {
    const BoundCall one = call.SequenceCall(sequence);
    NamedTensors parts;
    for (const BoundCall::OutputSpec& spec : call.outputs()) {
      parts.Set(spec.name, OutputOfSequence(*op.spec.FindOutput(spec.name),
                                            *outputs.Find(spec.name), sequence));
    }
    Composer composer(backend, one, parts);
    if (absl::Status s = op.definition(composer); !s.ok()) return s;
  }
  return absl::OkStatus();
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
  absl::StatusOr<const Kernel*> kernel = SelectKernel(op, call, backend.device(), forced);
  if (!kernel.ok()) return kernel.status();
  absl::StatusOr<NamedTensors> inputs = StageInputs(backend, call);
  if (!inputs.ok()) return Annotate(op, inputs.status());
  absl::StatusOr<NamedTensors> outputs = AllocateOutputs(backend, call);
  if (!outputs.ok()) return Annotate(op, outputs.status());
  // On the CPU the call's own tensors are the backend's: no second BoundCall.
  const bool on_host = backend.device() == Device::kCpu;
  const BoundCall staged = on_host ? BoundCall() : call.WithInputs(*std::move(inputs));
  const BoundCall& ready = on_host ? call : staged;

  const absl::Time start = absl::Now();
  const absl::Status ran = *kernel != nullptr ? (*kernel)->run(backend, ready, *outputs)
                                              : RunComposed(op, backend, ready, *outputs);
  if (!ran.ok()) return Annotate(op, ran);
  if (absl::Status s = backend.Synchronize(); !s.ok()) return Annotate(op, s);
  const absl::Duration compute = absl::Now() - start;

  absl::StatusOr<NamedTensors> host = FetchOutputs(backend, *std::move(outputs));
  if (!host.ok()) return Annotate(op, host.status());
  return Evaluation{*std::move(host), *kernel != nullptr ? (*kernel)->name : "composed",
                    backend.name(), compute};
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
