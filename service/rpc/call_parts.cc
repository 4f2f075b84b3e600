#include "service/rpc/call_parts.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "service/rpc/wire_tensor.h"

namespace attnd {

absl::Time DeadlineOf(const grpc::ServerContextBase& context) {
  const std::chrono::system_clock::time_point deadline = context.deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return absl::InfiniteFuture();
  return absl::FromChrono(deadline);
}

absl::Status CheckWanted(const Operator& op, const CallRequest& request,
                         const std::vector<std::string>& wanted) {
  const std::string& id = op.spec.id();
  if (absl::Status s = CheckCount(id, "outputs", static_cast<int64_t>(wanted.size()), kMaxOutputs);
      !s.ok()) {
    return s;
  }
  bool conditional = false;
  for (size_t i = 0; i < wanted.size(); ++i) {
    const Port* port = op.spec.FindOutput(wanted[i]);
    if (port == nullptr) {
      const std::string known =
          absl::StrJoin(op.spec.outputs(), ", ",
                        [](std::string* out, const Port& output) { out->append(output.name); });
      return Refusal(id, "outputs", absl::StrCat("'", Quoted(wanted[i]), "'"),
                     absl::StrCat("some of ", known));
    }
    if (std::find(wanted.begin(), wanted.begin() + static_cast<ptrdiff_t>(i), wanted[i]) !=
        wanted.begin() + static_cast<ptrdiff_t>(i)) {
      return Refusal(id, wanted[i], "twice in outputs", "each output once");
    }
    conditional = conditional || port->condition.has_value();
  }
  if (!conditional) return absl::OkStatus();
  const absl::StatusOr<BoundCall> bound = BindAndCheck(op, request);
  if (!bound.ok()) return bound.status();
  for (const std::string& name : wanted) {
    if (bound->FindOutput(name) == nullptr) {
      return Refusal(id, name, "in outputs",
                     absl::StrCat("only if ", op.spec.FindOutput(name)->condition->text()));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<NamedTensors> SelectOutputs(absl::string_view op, const Evaluation& evaluation,
                                           const std::vector<std::string>& wanted) {
  NamedTensors selected;
  const auto add = [&selected](absl::string_view name, const Tensor& tensor) {
    absl::StatusOr<Tensor> contiguous = Contiguous(tensor);
    if (!contiguous.ok()) return contiguous.status();
    selected.Set(name, *std::move(contiguous));
    return absl::OkStatus();
  };
  if (wanted.empty()) {
    for (const auto& [name, tensor] : evaluation.outputs) {
      if (absl::Status s = add(name, tensor); !s.ok()) return s;
    }
    return selected;
  }
  for (const std::string& name : wanted) {
    const Tensor* tensor = evaluation.outputs.Find(name);
    if (tensor == nullptr) {
      return absl::InternalError(absl::StrCat(op, ": ", name, ": the kernel gave no such output"));
    }
    if (absl::Status s = add(name, *tensor); !s.ok()) return s;
  }
  return selected;
}

void NoteRefused(Engine& engine, const absl::Status& status) {
  engine.NoteDropped(absl::IsResourceExhausted(status) ? Engine::Dropped::kTooLarge
                                                       : Engine::Dropped::kInvalid);
}

}  // namespace attnd
