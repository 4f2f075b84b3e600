#include "kernels/core/registry.h"

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/core/evaluate.h"
#include "kernels/core/nearest.h"

namespace attnd {
namespace {

[[noreturn]] void Bug(absl::string_view what) {
  std::cerr << "attnd: bug: " << what << std::endl;
  std::abort();
}

}  // namespace

Operator& Registry::Add(const SchemaText& schema, Definition definition) {
  absl::StatusOr<OpSpec> spec = OpSpec::Parse(schema);
  if (!spec.ok()) Bug(spec.status().message());
  auto op = std::make_unique<Operator>();
  op->spec = *std::move(spec);
  op->registry = this;
  op->definition = std::move(definition);
  auto [it, inserted] = operators_.emplace(schema.id, std::move(op));
  if (!inserted) Bug(absl::StrCat("operator ", schema.id, " is registered twice"));
  return *it->second;
}

Operator& Registry::AddOfParts(const SchemaText& schema, Definition definition) {
  Operator& op = Add(schema, std::move(definition));
  for (const Device device : {Device::kCpu, Device::kCuda}) {
    op.kernels.push_back(
        {.name = absl::StrCat("parts_", Name(device)),
         .device = device,
         .supports = [](const BoundCall&) { return true; },
         .run = [&op](
                    Backend& backend, const BoundCall& call,
                    const NamedTensors& outputs) { return RunOfParts(op, backend, call, outputs); },
         .of_parts = true});
  }
  return op;
}

void Registry::AddKernel(absl::string_view op, Kernel kernel) {
  auto it = operators_.find(op);
  if (it == operators_.end())
    Bug(absl::StrCat("kernel ", kernel.name, " of unknown operator ", op));
  std::vector<Kernel>& kernels = it->second->kernels;
  const auto parts = std::find_if(kernels.begin(), kernels.end(),
                                  [](const Kernel& present) { return present.of_parts; });
  kernels.insert(parts, std::move(kernel));
}

absl::StatusOr<const Operator*> Registry::Find(absl::string_view op) const {
  auto it = operators_.find(op);
  if (it != operators_.end()) return it->second.get();
  std::vector<absl::string_view> known;
  for (const auto& [id, unused] : operators_) known.push_back(id);
  return absl::NotFoundError(absl::StrCat("unknown operator '", op.substr(0, 64),
                                          "'; nearest: ", NearestNames(op, known)));
}

std::vector<const Operator*> Registry::operators() const {
  std::vector<const Operator*> all;
  all.reserve(operators_.size());
  for (const auto& [id, op] : operators_) all.push_back(op.get());
  return all;
}

absl::StatusOr<const Kernel*> SelectKernel(const Operator& op, const BoundCall& call, Device device,
                                           absl::string_view forced) {
  if (forced == "composed") return nullptr;
  // Fused kernels compute in float32: a float64 call is the definition's alone.
  const bool fused_allowed = call.dtype() != DType::kFloat64;
  for (const Kernel& kernel : op.kernels) {
    if (kernel.device != device) continue;
    if (forced.empty()) {
      if (fused_allowed && kernel.supports(call)) return &kernel;
    } else if (kernel.name == forced) {
      if (fused_allowed && kernel.supports(call)) return &kernel;
      return absl::InvalidArgumentError(absl::StrCat(
          op.spec.id(), ": kernel: '", forced, "' does not take this call (type ",
          Name(call.dtype()), " or its sizes or attributes); leave it empty or give 'composed'"));
    }
  }
  if (forced.empty()) return nullptr;
  std::vector<std::string> known = {"composed"};
  for (const Kernel& kernel : op.kernels) {
    if (kernel.device == device) known.push_back(kernel.name);
  }
  return absl::InvalidArgumentError(absl::StrCat(op.spec.id(), ": kernel: given '", forced,
                                                 "', expected one of ", absl::StrJoin(known, ", "),
                                                 " on ", Name(device)));
}

}  // namespace attnd
