#include "service/session/operator_state.h"

#include <map>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/primitives/cpu/primitives_cpu.h"
#include "models/sha256.h"
#include "service/rpc/wire_tensor.h"
#include "service/wire.h"

namespace attnd {

int64_t OperatorState::byte_size() const {
  int64_t bytes = 0;
  for (const auto& [name, tensor] : tensors) bytes += tensor.byte_size();
  return bytes;
}

absl::StatusOr<SharedOperatorState> StateBehind(const OpSpec& spec, const NamedTensors& outputs,
                                                uint64_t position) {
  auto state = std::make_shared<OperatorState>();
  state->position = position;
  for (const Port& port : spec.inputs()) {
    const std::string output = FinalStateName(port.name);
    const Tensor* tensor = output.empty() ? nullptr : outputs.Find(output);
    if (tensor == nullptr) continue;
    absl::StatusOr<Tensor> copy = AllocateHost(tensor->dtype(), tensor->shape());
    if (!copy.ok()) return copy.status();
    cpu::Copy(*tensor, *copy);
    state->tensors.Set(port.name, *std::move(copy));
  }
  return SharedOperatorState(std::move(state));
}

absl::StatusOr<NamedTensors> ViewTensors(absl::string_view op, const WireTensors& tensors,
                                         const std::shared_ptr<const void>& owner) {
  if (absl::Status s = CheckCount(op, "inputs", static_cast<int64_t>(tensors.size()), kMaxInputs);
      !s.ok()) {
    return s;
  }
  NamedTensors views;
  for (const auto& [name, wire] : tensors) {
    if (absl::Status s = CheckName(op, "input", name); !s.ok()) return s;
    const std::optional<DType> dtype = FromWire(wire.dtype());
    if (!dtype) {
      return Refusal(op, name, absl::StrCat("dtype ", static_cast<int>(wire.dtype())),
                     "BOOL, INT32, INT64, FLOAT16, BFLOAT16, FLOAT32 or FLOAT64");
    }
    const auto shape =
        absl::MakeConstSpan(wire.shape().data(), static_cast<size_t>(wire.shape_size()));
    absl::StatusOr<Tensor> view = ViewTensor(op, name, *dtype, shape, wire.data(), owner);
    if (!view.ok()) return view.status();
    views.Set(name, *std::move(view));
  }
  return views;
}

void ToWire(const NamedTensors& tensors, WireTensors& out) {
  for (const auto& [name, tensor] : tensors) {
    v1::Tensor& wire = out[name];
    wire.set_dtype(ToWire(tensor.dtype()));
    wire.mutable_shape()->Add(tensor.shape().begin(), tensor.shape().end());
    wire.set_data(tensor.raw(), static_cast<size_t>(tensor.byte_size()));
  }
}

v1::OperatorState ToWire(const OperatorState& state) {
  v1::OperatorState wire;
  wire.set_position(state.position);
  ToWire(state.tensors, *wire.mutable_tensors());
  return wire;
}

absl::StatusOr<SharedOperatorState> FromWire(const std::shared_ptr<const v1::OperatorState>& wire) {
  absl::StatusOr<NamedTensors> tensors = ViewTensors("state", wire->tensors(), wire);
  if (!tensors.ok()) return absl::DataLossError(tensors.status().message());
  auto state = std::make_shared<OperatorState>();
  state->position = wire->position();
  state->tensors = *std::move(tensors);
  return SharedOperatorState(std::move(state));
}

std::string DigestOf(const WireTensors& tensors) {
  const std::map<std::string, const v1::Tensor*> ordered = [&] {
    std::map<std::string, const v1::Tensor*> by_name;
    for (const auto& [name, tensor] : tensors) by_name[name] = &tensor;
    return by_name;
  }();
  Sha256Stream digest;
  for (const auto& [name, tensor] : ordered) {
    digest.Add(absl::StrCat(name, " ", static_cast<int>(tensor->dtype()), " [",
                            absl::StrJoin(tensor->shape(), ","), "] ", tensor->data().size(),
                            "\n"));
    digest.Add(tensor->data());
  }
  return digest.Finish();
}

}  // namespace attnd
