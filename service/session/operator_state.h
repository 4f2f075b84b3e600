// What an operator hands on from one call of a session to the next, and the calls' tensors on their
// way to the log and back.
#ifndef ATTND_SERVICE_SESSION_OPERATOR_STATE_H_
#define ATTND_SERVICE_SESSION_OPERATOR_STATE_H_

#include <google/protobuf/map.h>

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "attnd/v1/session_record.pb.h"
#include "attnd/v1/tensor.pb.h"
#include "kernels/core/call.h"
#include "kernels/core/op_spec.h"

namespace attnd {

using WireTensors = google::protobuf::Map<std::string, v1::Tensor>;

// Never written once it is made, so that a session, its forks and its snapshots share it.
struct OperatorState {
  uint64_t position = 0;
  NamedTensors tensors;  // By the names of the inputs that they become: "initial_state".
  int64_t byte_size() const;
};
using SharedOperatorState = std::shared_ptr<const OperatorState>;

// The final states among a call's outputs, copied: outputs may be views on the memory of a whole
// batch.
absl::StatusOr<SharedOperatorState> StateBehind(const OpSpec& spec, const NamedTensors& outputs,
                                                uint64_t position);

// Views into `tensors`, which `owner` keeps alive. INVALID_ARGUMENT naming the tensor.
absl::StatusOr<NamedTensors> ViewTensors(absl::string_view op, const WireTensors& tensors,
                                         const std::shared_ptr<const void>& owner);
void ToWire(const NamedTensors& tensors, WireTensors& out);
v1::OperatorState ToWire(const OperatorState& state);
// The way back; the bytes stay where they are. DATA_LOSS for tensors that are none.
absl::StatusOr<SharedOperatorState> FromWire(const std::shared_ptr<const v1::OperatorState>& state);

// Over names, types, shapes and bytes.
std::string DigestOf(const WireTensors& tensors);

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_OPERATOR_STATE_H_
