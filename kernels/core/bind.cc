#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/core/binder.h"
#include "kernels/core/form_cache.h"
#include "kernels/core/nearest.h"
#include "kernels/primitives/cpu/primitives_cpu.h"

namespace attnd {
namespace {

// The type an input of a port takes in canonical form.
DType CanonicalType(PortType type, DType call_type) {
  switch (type) {
    case PortType::kFloat:
      return call_type;
    case PortType::kFloat32:
      return call_type == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32;
    case PortType::kInt:
    case PortType::kInt64:
      return DType::kInt64;
    case PortType::kInt32:
      return DType::kInt32;
    case PortType::kBool:
      return DType::kBool;
  }
  return call_type;
}

bool Accepts(PortType type, DType given, DType call_type) {
  switch (type) {
    case PortType::kFloat:
      return given == call_type;
    case PortType::kFloat32:
      return given == DType::kFloat32 || given == DType::kFloat16 || given == DType::kBFloat16 ||
             (given == DType::kFloat64 && call_type == DType::kFloat64);
    case PortType::kInt:
      return IsInteger(given);
    case PortType::kInt32:
      return given == DType::kInt32;
    case PortType::kInt64:
      return given == DType::kInt64;
    case PortType::kBool:
      return given == DType::kBool;
  }
  return false;
}

}  // namespace

absl::string_view AfterColon(absl::string_view text) {
  const size_t colon = text.find(':');
  text.remove_prefix(colon + 1);
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  return text;
}

Binder::Binder(const OpSpec& spec, const CallRequest& request) : spec_(spec), request_(&request) {
  call_.spec_ = &spec;
}

Binder::Binder(CallForm form, BoundCall call)
    : spec_(*call.spec_), form_(std::move(form)), call_(std::move(call)) {}

absl::Status Binder::Error(absl::string_view subject, absl::string_view what) const {
  return absl::InvalidArgumentError(absl::StrCat(spec_.id(), ": ", subject, ": ", what));
}

std::optional<AttrValue> Binder::Lookup(absl::string_view name) const {
  if (const int64_t* size = form_.dims.Find(name)) return AttrValue(*size);
  if (const AttrValue* value = form_.attributes.Find(name)) return *value;
  return std::nullopt;
}

bool Binder::Has(absl::string_view name) const {
  if (request_ != nullptr && request_->inputs.contains(name)) return true;
  return call_.inputs_.contains(name) || form_.attributes.contains(name);
}

const Derived* Binder::FindDerived(absl::string_view symbol) const {
  const auto found =
      std::find_if(spec_.derived().begin(), spec_.derived().end(),
                   [symbol](const Derived& derived) { return derived.symbol == symbol; });
  return found != spec_.derived().end() ? &*found : nullptr;
}

std::string Binder::Values(std::vector<std::string> names) const {
  std::vector<std::string> texts;
  for (size_t i = 0; i < names.size(); ++i) {
    const std::string name = names[i];
    const int64_t* size = form_.dims.Find(name);
    if (const Derived* derived = FindDerived(name); size != nullptr && derived != nullptr) {
      // A caller gave none of it: what it follows from is told too.
      texts.push_back(absl::StrCat(name, "=", *size, " (", derived->value.text(), ")"));
      for (std::string& source : derived->value.Names()) {
        if (std::find(names.begin(), names.end(), source) == names.end()) {
          names.push_back(std::move(source));
        }
      }
    } else if (size != nullptr) {
      const std::string* source = bound_by_.Find(name);
      texts.push_back(absl::StrCat(name, "=", *size,
                                   source != nullptr ? absl::StrCat(" (", *source, ")") : ""));
    } else if (const AttrValue* value = form_.attributes.Find(name)) {
      texts.push_back(absl::StrCat(name, "=", ToString(*value)));
    } else if (spec_.FindInput(name) != nullptr) {
      texts.push_back(absl::StrCat(name, Has(name) ? " given" : " not given"));
    }
  }
  return absl::StrJoin(texts, ", ");
}

absl::Status Binder::CheckNames() const {
  for (const auto& [name, tensor] : request_->inputs) {
    if (spec_.FindInput(name) != nullptr) continue;
    std::vector<absl::string_view> known;
    for (const Port& port : spec_.inputs()) known.push_back(port.name);
    return Error(absl::string_view(name).substr(0, 64),
                 absl::StrCat("given, expected an input of this operator; nearest: ",
                              NearestNames(name, known)));
  }
  for (const auto& [name, value] : request_->attributes) {
    if (spec_.FindAttribute(name) != nullptr) continue;
    std::vector<absl::string_view> known;
    for (const AttrSpec& attribute : spec_.attributes()) known.push_back(attribute.name);
    return Error(absl::string_view(name).substr(0, 64),
                 absl::StrCat("given, expected an attribute of this operator; nearest: ",
                              NearestNames(name, known)));
  }
  return absl::OkStatus();
}

absl::Status Binder::CheckPresence() const {
  for (const Port& port : spec_.inputs()) {
    const bool given = request_->inputs.contains(port.name);
    if (port.condition) {
      absl::StatusOr<bool> applies = port.condition->EvaluateBool(*this);
      if (!applies.ok() || !*applies) {
        if (!given) continue;
        return Error(port.name, absl::StrCat("given, expected only if ", port.condition->text(),
                                             "; ", Values(port.condition->Names())));
      }
    }
    if (!given && !port.optional) {
      return Error(port.name,
                   absl::StrCat("missing: given nothing, expected ", AfterColon(port.text)));
    }
  }
  return absl::OkStatus();
}

absl::Status Binder::BindTypes() {
  const std::string* first = nullptr;
  for (const Port& port : spec_.inputs()) {
    const Tensor* tensor = request_->inputs.Find(port.name);
    if (tensor == nullptr || port.type != PortType::kFloat) continue;
    if (!IsFloating(tensor->dtype())) {
      return Error(port.name, absl::StrCat("given ", Name(tensor->dtype()),
                                           ", expected float32, float16, bfloat16 or float64"));
    }
    if (first == nullptr) {
      first = &port.name;
      form_.dtype = tensor->dtype();
    } else if (tensor->dtype() != form_.dtype) {
      return Error(port.name, absl::StrCat("given ", Name(tensor->dtype()), ", expected ",
                                           Name(form_.dtype), ", the type of ", *first));
    }
  }
  for (const Port& port : spec_.inputs()) {
    const Tensor* tensor = request_->inputs.Find(port.name);
    if (tensor == nullptr) continue;
    if (!Accepts(port.type, tensor->dtype(), form_.dtype)) {
      return Error(port.name,
                   absl::StrCat("given ", Name(tensor->dtype()), ", expected ",
                                port.type == PortType::kInt ? "int32 or int64" : Name(port.type)));
    }
    if (tensor->rank() > kMaxRank) {
      return Error(port.name,
                   absl::StrCat("given rank ", tensor->rank(), ", expected at most ", kMaxRank));
    }
  }
  return absl::OkStatus();
}

absl::Status Binder::BindSequences(const CallForm& form) {
  const int64_t* tokens = form.dims.Find("T");
  const int64_t length = tokens != nullptr ? *tokens : 0;
  const int64_t* batch = form.dims.Find("B");
  const Tensor* offsets = spec_.packs() ? request_->inputs.Find("cu_seqlens") : nullptr;
  if (offsets == nullptr) {
    const int64_t rows = batch != nullptr ? *batch : 0;
    call_.sequences_.reserve(static_cast<size_t>(rows));
    for (int64_t row = 0; row < rows; ++row) call_.sequences_.push_back({row, 0, length, row});
    return absl::OkStatus();
  }
  if (batch != nullptr && *batch != 1) {
    return Error("cu_seqlens", absl::StrCat("given with B=", *batch,
                                            ", expected B=1: packed sequences lie end to end"));
  }
  const auto at = [offsets](int64_t i) { return offsets->data<int32_t>()[i * offsets->stride(0)]; };
  const int64_t last = offsets->dim(0) - 1;
  if (at(0) != 0) {
    return Error("cu_seqlens", absl::StrCat("given cu_seqlens[0]=", at(0), ", expected 0"));
  }
  for (int64_t i = 1; i <= last; ++i) {
    if (at(i) < at(i - 1)) {
      return Error("cu_seqlens", absl::StrCat("given cu_seqlens[", i, "]=", at(i), " after ",
                                              at(i - 1), ", expected offsets that never decrease"));
    }
    call_.sequences_.push_back({0, at(i - 1), at(i) - at(i - 1), i - 1});
  }
  if (at(last) != length) {
    return Error("cu_seqlens",
                 absl::StrCat("given a last offset of ", at(last), ", expected T=", length));
  }
  return absl::OkStatus();
}

absl::Status Binder::CheckRules() const {
  for (const Rule& rule : spec_.rules()) {
    const absl::StatusOr<bool> holds = rule.condition.EvaluateBool(*this);
    if (holds.ok() && *holds) continue;
    const std::vector<std::string> names = rule.condition.Names();
    return Error(absl::StrJoin(names, ", "),
                 absl::StrCat("given ", Values(names), ", expected ",
                              rule.sentence.empty()
                                  ? rule.condition.text()
                                  : absl::StrCat(rule.sentence, " (", rule.condition.text(), ")")));
  }
  return absl::OkStatus();
}

absl::Status Binder::Canonicalise(const CallForm& form) {
  for (const Port& port : spec_.inputs()) {
    const Tensor* given = request_->inputs.Find(port.name);
    if (given == nullptr) continue;
    const DType type = CanonicalType(port.type, form.dtype);
    if (given->dtype() == type && given->is_contiguous()) {
      call_.inputs_.Set(port.name,
                        Tensor(given->raw(), type, given->shape(), Device::kCpu, given->owner()));
      continue;
    }
    absl::StatusOr<Tensor> copy = AllocateHost(type, given->shape());
    if (!copy.ok()) return copy.status();
    cpu::Copy(*given, *copy);
    call_.inputs_.Set(port.name, *std::move(copy));
  }
  return absl::OkStatus();
}

absl::StatusOr<Dims> Binder::SizesOf(const std::vector<Expression>& shape) const {
  Dims sizes;
  for (const Expression& size : shape) {
    const absl::StatusOr<int64_t> value = size.EvaluateInt(*this);
    if (!value.ok()) return value.status();
    sizes.push_back(*value);
  }
  return sizes;
}

size_t Binder::PlaceOf(const Port& output) const {
  if (output.shapes.size() == 1) return 0;
  for (const Port& input : spec_.inputs()) {
    if (input.shapes.size() != output.shapes.size() || !Has(input.name)) continue;
    const int* place = form_.alternatives.Find(input.name);
    return place != nullptr ? static_cast<size_t>(*place) : 0;
  }
  return 0;
}

absl::Status Binder::DescribeOutputs() {
  form_.outputs.clear();
  int64_t total = 0;
  for (const Port& port : spec_.outputs()) {
    if (port.condition) {
      absl::StatusOr<bool> applies = port.condition->EvaluateBool(*this);
      if (!applies.ok() || !*applies) continue;
    }
    BoundCall::OutputSpec output{port.name, CanonicalType(port.type, form_.dtype), {}};
    absl::StatusOr<Dims> shape = SizesOf(port.shapes[PlaceOf(port)]);
    for (size_t i = 1; i < port.shapes.size() && absl::IsFailedPrecondition(shape.status()); ++i) {
      shape = SizesOf(port.shapes[i]);
    }
    if (!shape.ok()) return Error(port.name, shape.status().message());
    output.shape = *std::move(shape);
    const absl::StatusOr<int64_t> bytes = CheckedByteSize(output.dtype, output.shape);
    if (!bytes.ok() || __builtin_add_overflow(total, *bytes, &total)) {
      return Error(port.name, absl::StrCat("would have shape ", ToString(output.shape),
                                           ", expected outputs of at most 2^63 - 1 bytes"));
    }
    form_.outputs.push_back(std::move(output));
  }
  return absl::OkStatus();
}

absl::StatusOr<BoundCall> Binder::Run() {
  using Step = absl::Status (Binder::*)();
  if (absl::Status s = CheckNames(); !s.ok()) return s;
  if (absl::Status s = BindAttributes(); !s.ok()) return s;
  if (absl::Status s = CheckPresence(); !s.ok()) return s;
  for (Step step : {&Binder::BindTypes, &Binder::BindSizes, &Binder::BindDerived,
                    &Binder::CheckComputedSizes}) {
    if (absl::Status s = (this->*step)(); !s.ok()) return s;
  }
  if (absl::Status s = CheckZeroSizes(); !s.ok()) return s;
  if (absl::Status s = FillDefaults(/*final_round=*/true); !s.ok()) return s;
  if (absl::Status s = BindSequences(form_); !s.ok()) return s;
  if (absl::Status s = CheckRules(); !s.ok()) return s;
  if (absl::Status s = DescribeOutputs(); !s.ok()) return s;
  if (absl::Status s = Canonicalise(form_); !s.ok()) return s;
  call_.form_ = std::make_shared<const CallForm>(std::move(form_));
  return std::move(call_);
}

absl::StatusOr<BoundCall> Binder::RunWith(std::shared_ptr<const CallForm> form) {
  if (absl::Status s = BindSequences(*form); !s.ok()) return s;
  if (absl::Status s = Canonicalise(*form); !s.ok()) return s;
  call_.form_ = std::move(form);
  return std::move(call_);
}

absl::Status Binder::Recompute(CallForm form, BoundCall& call) {
  Binder binder(std::move(form), call);
  if (absl::Status s = binder.BindDerived(); !s.ok()) return s;
  if (absl::Status s = binder.DescribeOutputs(); !s.ok()) return s;
  call.form_ = std::make_shared<const CallForm>(std::move(binder.form_));
  return absl::OkStatus();
}

absl::StatusOr<BoundCall> Bind(const OpSpec& spec, const CallRequest& request) {
  std::string key;
  const bool known = FormKey(spec, request, &key);
  if (known) {
    if (std::shared_ptr<const CallForm> form = spec.forms().Find(key)) {
      return Binder(spec, request).RunWith(std::move(form));
    }
  }
  absl::StatusOr<BoundCall> call = Binder(spec, request).Run();
  if (call.ok() && known) spec.forms().Add(std::move(key), call->form_);
  return call;
}

}  // namespace attnd
