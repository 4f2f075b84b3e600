#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "kernels/core/binder.h"
#include "kernels/core/coerce.h"
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

template <typename T>
constexpr bool IsVector = false;
template <typename T>
constexpr bool IsVector<std::vector<T>> = true;

bool IsList(const AttrValue& value) {
  return std::visit([](const auto& held) { return IsVector<std::decay_t<decltype(held)>>; }, value);
}

// "float[B,T,H,K]" of "q: float[B,T,H,K]".
absl::string_view AfterColon(absl::string_view text) {
  const size_t colon = text.find(':');
  text.remove_prefix(colon + 1);
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  return text;
}

}  // namespace

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

absl::Status Binder::BindAttributes() {
  for (const AttrSpec& attribute : spec_.attributes()) {
    const AttrValue* given = request_->attributes.Find(attribute.name);
    if (given == nullptr) {
      if (attribute.required()) {
        return Error(attribute.name,
                     absl::StrCat("missing: given nothing, expected ", AfterColon(attribute.text)));
      }
      continue;
    }
    absl::StatusOr<AttrValue> value = CoerceAttribute(spec_, attribute, *given);
    if (!value.ok()) return value.status();
    form_.attributes.Set(attribute.name, *std::move(value));
  }
  if (absl::Status s = FillDefaults(/*final_round=*/false); !s.ok()) return s;
  return SpreadLists();
}

// Lists of a given length get it: a single number, or a default of one entry, stands for all.
absl::Status Binder::SpreadLists() {
  for (const AttrSpec& attribute : spec_.attributes()) {
    AttrValue* const value = form_.attributes.Find(attribute.name);
    if (!attribute.length || value == nullptr) continue;
    const absl::StatusOr<int64_t> length = attribute.length->EvaluateInt(*this);
    if (!length.ok()) return Error(attribute.name, length.status().message());
    const AttrValue* const given = request_->attributes.Find(attribute.name);
    const bool alone = given == nullptr || !IsList(*given);
    const bool fits = std::visit(
        [&](auto& list) {
          if constexpr (!IsVector<std::decay_t<decltype(list)>>) {
            return false;
          } else {
            constexpr int64_t kMostSpread = 64;
            if (alone && list.size() == 1 && *length >= 0 && *length <= kMostSpread) {
              list.resize(static_cast<size_t>(*length), list.front());
            }
            return static_cast<int64_t>(list.size()) == *length;
          }
        },
        *value);
    if (!fits) {
      return Error(attribute.name,
                   absl::StrCat("given ", ToString(*value), ", expected ", *length, " entries",
                                attribute.doc.empty() ? "" : absl::StrCat(": ", attribute.doc)));
    }
  }
  return absl::OkStatus();
}

// Defaults that read sizes wait for the final round.
absl::Status Binder::FillDefaults(bool final_round) {
  for (const AttrSpec& attribute : spec_.attributes()) {
    if (form_.attributes.contains(attribute.name)) continue;
    if (attribute.default_list) {
      form_.attributes.Set(attribute.name, *attribute.default_list);
    } else if (attribute.default_value) {
      absl::StatusOr<AttrValue> value = attribute.default_value->Evaluate(*this);
      if (!value.ok()) {
        if (!final_round) continue;
        return Error(attribute.name, absl::StrCat("its default ", attribute.default_value->text(),
                                                  " has no value: ", value.status().message()));
      }
      value = CoerceAttribute(spec_, attribute, *value);
      if (!value.ok()) return value.status();
      form_.attributes.Set(attribute.name, *std::move(value));
    }
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

// Gives free symbols their sizes. `complete`: every size has a value now, check them all.
absl::Status Binder::Unify(const Port& port, const Tensor& tensor,
                           const std::vector<Expression>& shape, bool complete) {
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    const int64_t given = tensor.shape()[axis];
    const std::optional<Expression::Linear> linear = shape[axis].AsLinear();
    int64_t expected;
    if (linear && FindDerived(linear->symbol) == nullptr &&
        !form_.attributes.contains(linear->symbol) && !form_.dims.contains(linear->symbol)) {
      if (linear->symbol == "M" && port.name != "cu_seqlens") {
        if (complete) return absl::InternalError("M has no size");
        continue;
      }
      if (given - linear->offset >= 0) {
        form_.dims.Set(linear->symbol, given - linear->offset);
        bound_by_.Set(linear->symbol, port.name);
        continue;
      }
      expected = linear->offset;
    } else {
      const absl::StatusOr<int64_t> size = shape[axis].EvaluateInt(*this);
      if (!size.ok()) {
        if (!complete) continue;  // Waits for derived sizes.
        return Error(port.name, absl::StrCat("given ", ToString(tensor.shape()), ", expected ",
                                             AfterColon(port.text), ": ", size.status().message()));
      }
      expected = *size;
    }
    if (given == expected) continue;
    std::vector<std::string> names;
    for (const Expression& size : shape) {
      for (const std::string& name : size.Names()) names.push_back(name);
    }
    const std::string values = Values(std::move(names));
    return Error(port.name,
                 absl::StrCat("given ", ToString(tensor.shape()), ", expected ",
                              AfterColon(port.text), values.empty() ? "" : " with ", values));
  }
  return absl::OkStatus();
}

absl::Status Binder::BindPort(const Port& port, const Tensor& tensor) {
  absl::Status last = Error(port.name, absl::StrCat("given ", ToString(tensor.shape()),
                                                    ", expected ", AfterColon(port.text)));
  for (size_t i = 0; i < port.shapes.size(); ++i) {
    if (port.shapes[i].size() != static_cast<size_t>(tensor.rank())) continue;
    const Named<int64_t> before = form_.dims;
    const Named<std::string> sources = bound_by_;
    absl::Status status = Unify(port, tensor, port.shapes[i], /*complete=*/false);
    if (status.ok()) {
      if (i != 0) form_.alternatives.Set(port.name, static_cast<int>(i));
      return status;
    }
    last = status;
    form_.dims = before;
    bound_by_ = sources;
  }
  return last;
}

absl::Status Binder::BindSizes() {
  // M first: states are sized by it. Required inputs before optional ones, so that errors blame the
  // latter.
  for (int round = 0; round < 3; ++round) {
    for (const Port& port : spec_.inputs()) {
      const Tensor* tensor = request_->inputs.Find(port.name);
      if (tensor == nullptr) continue;
      const int turn = port.name == "cu_seqlens" ? 0 : port.optional ? 2 : 1;
      if (turn != round) continue;
      if (absl::Status s = BindPort(port, *tensor); !s.ok()) return s;
    }
    if (round == 1 && !form_.dims.contains("M") && form_.dims.contains("B")) {
      form_.dims.Set("M", *form_.dims.Find("B"));
      bound_by_.Set("M", "the batch");
    }
  }
  // What an absent input would have held has size zero.
  for (absl::string_view symbol :
       absl::StrSplit(spec_.text().may_be_zero, ' ', absl::SkipEmpty())) {
    if (!form_.dims.contains(symbol)) form_.dims.Set(symbol, 0);
  }
  return absl::OkStatus();
}

absl::Status Binder::BindDerived() {
  for (const Derived& derived : spec_.derived()) {
    absl::StatusOr<int64_t> size = derived.value.EvaluateInt(*this);
    if (!size.ok()) {
      // A size that hangs on an absent input; whatever needs it will say so.
      if (absl::IsFailedPrecondition(size.status())) continue;
      return Error(derived.symbol,
                   absl::StrCat("given ", Values(derived.value.Names()), ", expected a size from ",
                                derived.value.text(), ": ", size.status().message()));
    }
    form_.dims.Set(derived.symbol, *size);
  }
  return absl::OkStatus();
}

absl::Status Binder::CheckComputedSizes() {
  for (const Port& port : spec_.inputs()) {
    const Tensor* tensor = request_->inputs.Find(port.name);
    if (tensor == nullptr) continue;
    const int* alternative = form_.alternatives.Find(port.name);
    const auto& shape = port.shapes[static_cast<size_t>(alternative != nullptr ? *alternative : 0)];
    if (absl::Status s = Unify(port, *tensor, shape, /*complete=*/true); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status Binder::CheckZeroSizes() const {
  for (const auto& [symbol, size] : form_.dims) {
    if (size > 0 || spec_.MayBeZero(symbol) || FindDerived(symbol) != nullptr) continue;
    const std::string* source = bound_by_.Find(symbol);
    return Error(source != nullptr ? *source : symbol,
                 absl::StrCat("given a size of ", size, " for ", symbol, ", expected at least 1"));
  }
  return absl::OkStatus();
}

absl::Status Binder::BindSequences(const CallForm& form) {
  const int64_t* tokens = form.dims.Find("T");
  const int64_t length = tokens != nullptr ? *tokens : 0;
  const int64_t* batch = form.dims.Find("B");
  const Tensor* offsets = request_->inputs.Find("cu_seqlens");
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

absl::Status Binder::DescribeOutputs() {
  form_.outputs.clear();
  int64_t total = 0;
  for (const Port& port : spec_.outputs()) {
    if (port.condition) {
      absl::StatusOr<bool> applies = port.condition->EvaluateBool(*this);
      if (!applies.ok() || !*applies) continue;
    }
    BoundCall::OutputSpec output{port.name, CanonicalType(port.type, form_.dtype), {}};
    for (const Expression& size : port.shapes[0]) {
      absl::StatusOr<int64_t> value = size.EvaluateInt(*this);
      if (!value.ok()) return Error(port.name, value.status().message());
      output.shape.push_back(*value);
    }
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
