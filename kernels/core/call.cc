#include "kernels/core/call.h"

#include <cstdlib>
#include <iostream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/binder.h"

namespace attnd {
namespace {

[[noreturn]] void Missing(const OpSpec& spec, absl::string_view kind, absl::string_view name) {
  std::cerr << "attnd: bug: operator " << spec.id() << " has no " << kind << " " << name
            << std::endl;
  std::abort();
}

template <typename T>
const T& Get(const OpSpec& spec, const Attributes& attributes, absl::string_view name) {
  const AttrValue* value = attributes.Find(name);
  const T* held = value != nullptr ? std::get_if<T>(value) : nullptr;
  if (held == nullptr) Missing(spec, "attribute of that type:", name);
  return *held;
}

}  // namespace

const Tensor& BoundCall::input(absl::string_view name) const {
  static const Tensor kUndefined;
  const Tensor* found = inputs_.Find(name);
  return found != nullptr ? *found : kUndefined;
}

int BoundCall::alternative(absl::string_view name) const {
  const int* found = form_->alternatives.Find(name);
  return found != nullptr ? *found : 0;
}

int64_t BoundCall::dim(absl::string_view symbol) const {
  const int64_t* found = form_->dims.Find(symbol);
  if (found == nullptr) Missing(*spec_, "size", symbol);
  return *found;
}

bool BoundCall::flag(absl::string_view name) const { return Get<bool>(*spec_, attributes(), name); }

int64_t BoundCall::integer(absl::string_view name) const {
  return Get<int64_t>(*spec_, attributes(), name);
}

double BoundCall::real(absl::string_view name) const {
  return Get<double>(*spec_, attributes(), name);
}

const std::string& BoundCall::choice(absl::string_view name) const {
  return Get<std::string>(*spec_, attributes(), name);
}

const std::vector<int64_t>& BoundCall::integers(absl::string_view name) const {
  return Get<std::vector<int64_t>>(*spec_, attributes(), name);
}

const std::vector<bool>& BoundCall::flags(absl::string_view name) const {
  return Get<std::vector<bool>>(*spec_, attributes(), name);
}

const BoundCall::OutputSpec* BoundCall::FindOutput(absl::string_view name) const {
  for (const OutputSpec& output : outputs()) {
    if (output.name == name) return &output;
  }
  return nullptr;
}

BoundCall BoundCall::WithInputs(NamedTensors inputs) const {
  BoundCall call = *this;
  call.inputs_ = std::move(inputs);
  return call;
}

BoundCall BoundCall::SequenceCall(const Sequence& sequence) const {
  BoundCall one;
  one.spec_ = spec_;
  // Keys follow the queries: a packed operator's S is its T.
  const bool cuts_keys = packed() && dims().contains("S");
  for (const auto& [name, tensor] : inputs_) {
    if (name == "cu_seqlens" && spec_->packs()) continue;
    const Port& port = *spec_->FindInput(name);
    const int shape = alternative(name);
    const bool tokens = port.AxisOf("T", shape) == 1 || (cuts_keys && port.AxisOf("S", shape) == 1);
    Tensor part = tensor;
    if (port.AxisOf("B", shape) == 0) {
      part = part.Slice(0, sequence.row, 1);
      if (tokens && packed()) part = part.Slice(1, sequence.begin, sequence.length);
    } else if (packed() && port.AxisOf("T", shape) == 0) {
      part = part.Slice(0, sequence.begin, sequence.length);
    } else if (port.AxisOf("M", shape) == 0) {
      part = part.Slice(0, sequence.state, 1);
    }
    one.inputs_.Set(name, std::move(part));
  }
  CallForm form = *form_;
  form.dims.Set("B", 1);
  form.dims.Set("M", 1);
  if (dims().contains("T")) form.dims.Set("T", sequence.length);
  if (cuts_keys) form.dims.Set("S", sequence.length);
  if (spec_->reads_longest()) form.dims.Set("LT", sequence.length);
  one.sequences_ = {Sequence{0, 0, sequence.length, 0}};
  // The whole call satisfied the schema, so its parts do; sizes only shrink.
  const absl::Status status = Binder::Recompute(std::move(form), one);
  if (!status.ok()) {
    std::cerr << "attnd: bug: a sequence of " << spec_->id() << ": " << status << std::endl;
    std::abort();
  }
  return one;
}

}  // namespace attnd
