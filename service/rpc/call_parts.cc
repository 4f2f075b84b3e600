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

absl::Status CheckWantedNames(const OpSpec& spec, const std::vector<std::string>& wanted) {
  const std::string& id = spec.id();
  if (absl::Status s = CheckCount(id, "outputs", static_cast<int64_t>(wanted.size()), kMaxOutputs);
      !s.ok()) {
    return s;
  }
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (spec.FindOutput(wanted[i]) == nullptr) {
      const std::string known =
          absl::StrJoin(spec.outputs(), ", ",
                        [](std::string* out, const Port& output) { out->append(output.name); });
      return Refusal(id, "outputs", absl::StrCat("'", Quoted(wanted[i]), "'"),
                     absl::StrCat("some of ", known));
    }
    if (std::find(wanted.begin(), wanted.begin() + static_cast<ptrdiff_t>(i), wanted[i]) !=
        wanted.begin() + static_cast<ptrdiff_t>(i)) {
      return Refusal(id, wanted[i], "twice in outputs", "each output once");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckWanted(const Operator& op, const CallRequest& request,
                         const std::vector<std::string>& wanted) {
  if (absl::Status s = CheckWantedNames(op.spec, wanted); !s.ok()) return s;
  const bool conditional = std::any_of(wanted.begin(), wanted.end(), [&op](const auto& name) {
    return op.spec.FindOutput(name)->condition.has_value();
  });
  if (!conditional) return absl::OkStatus();
  const absl::StatusOr<BoundCall> bound = BindAndCheck(op, request);
  if (!bound.ok()) return bound.status();
  for (const std::string& name : wanted) {
    if (bound->FindOutput(name) == nullptr) {
      return Refusal(op.spec.id(), name, "in outputs",
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
