#include "kernels/core/part_call.h"

#include <cstdlib>
#include <iostream>
#include <utility>

#include "kernels/core/evaluate.h"
#include "kernels/core/registry.h"
#include "kernels/core/staged_call.h"

namespace attnd {
namespace {

const Operator& OperatorOf(const Composer& c, absl::string_view id) {
  if (c.parts().registry != nullptr) {
    const absl::StatusOr<const Operator*> op = c.parts().registry->Find(id);
    if (op.ok()) return **op;
  }
  std::cerr << "attnd: bug: " << c.call().spec().id() << " calls " << id << ", which is not there"
            << std::endl;
  std::abort();
}

}  // namespace

PartCall::PartCall(Composer& c, absl::string_view op) : c_(c) {
  request_.op = OperatorOf(c, op).spec.id();
}

PartCall& PartCall::In(absl::string_view name, const Array& x) {
  // Canonical already, so that binding copies nothing: these tensors may be a device's.
  const Array whole = c_.Contiguous(x);
  if (whole.defined()) request_.inputs.Set(name, whole.tensor());
  return *this;
}

PartCall& PartCall::Set(absl::string_view attribute, AttrValue value) {
  request_.attributes.Set(attribute, std::move(value));
  return *this;
}

PartCall& PartCall::Pass(absl::string_view name) { return In(name, c_.In(name)); }

PartCall& PartCall::PassAttribute(absl::string_view name) {
  const AttrValue* value = c_.call().attributes().Find(name);
  return value == nullptr ? *this : Set(name, *value);
}

Array PartCall::Out(absl::string_view name) {
  if (!ran_) Run();
  const Tensor* out = outputs_.Find(name);
  return out != nullptr && c_.status().ok() ? Array(&c_, *out) : Array();
}

void PartCall::Run() {
  ran_ = true;
  if (!c_.status().ok()) return;
  const Operator& op = OperatorOf(c_, request_.op);
  const absl::StatusOr<BoundCall> call = Bind(op.spec, request_);
  if (!call.ok()) return c_.Fail(call.status());
  for (const BoundCall::OutputSpec& spec : call->outputs()) {
    const Array out = c_.Empty(spec.dtype, spec.shape);
    if (!out.defined()) return;
    outputs_.Set(spec.name, out.tensor());
  }
  const Kernel* kernel = nullptr;
  if (c_.parts().kernels) {
    const absl::StatusOr<const Kernel*> chosen = SelectKernel(op, *call, c_.backend().device(), "");
    if (!chosen.ok()) return c_.Fail(chosen.status());
    kernel = *chosen;
  }
  c_.Fail(Annotate(op, kernel != nullptr ? kernel->run(c_.backend(), *call, outputs_)
                                         : RunComposed(op, c_.backend(), *call, outputs_)));
}

}  // namespace attnd
