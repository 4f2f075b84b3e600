#include "kernels/core/registry.h"

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace attnd {
namespace {

[[noreturn]] void Bug(absl::string_view what) {
  std::cerr << "attnd: bug: " << what << std::endl;
  std::abort();
}

// Levenshtein distance of two short names.
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substituted});
    }
  }
  return row[b.size()];
}

}  // namespace

Operator& Registry::Add(const SchemaText& schema, Definition definition) {
  absl::StatusOr<OpSpec> spec = OpSpec::Parse(schema);
  if (!spec.ok()) Bug(spec.status().message());
  auto op = std::make_unique<Operator>();
  op->spec = *std::move(spec);
  op->definition = std::move(definition);
  auto [it, inserted] = operators_.emplace(schema.id, std::move(op));
  if (!inserted) Bug(absl::StrCat("operator ", schema.id, " is registered twice"));
  return *it->second;
}

void Registry::AddKernel(absl::string_view op, Kernel kernel) {
  auto it = operators_.find(op);
  if (it == operators_.end())
    Bug(absl::StrCat("kernel ", kernel.name, " of unknown operator ", op));
  it->second->kernels.push_back(std::move(kernel));
}

absl::StatusOr<const Operator*> Registry::Find(absl::string_view op) const {
  auto it = operators_.find(op);
  if (it != operators_.end()) return it->second.get();
  if (op.size() > 64) op = op.substr(0, 64);
  std::vector<std::pair<size_t, absl::string_view>> ranked;
  for (const auto& [id, unused] : operators_) ranked.emplace_back(EditDistance(op, id), id);
  std::sort(ranked.begin(), ranked.end());
  if (ranked.size() > 3) ranked.resize(3);
  return absl::NotFoundError(absl::StrCat(
      "unknown operator '", op,
      "'; nearest: ", absl::StrJoin(ranked, ", ", [](std::string* out, const auto& entry) {
        absl::StrAppend(out, entry.second);
      })));
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
