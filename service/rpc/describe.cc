#include "service/rpc/describe.h"

#include "absl/strings/str_cat.h"
#include "service/rpc/codec.h"

namespace attnd {
namespace {

template <typename Kernels>
void DescribeKernels(const std::vector<Engine::KernelName>& kernels, Kernels* wire) {
  for (const Engine::KernelName& kernel : kernels) {
    v1::KernelDescription& described = *wire->Add();
    described.set_name(kernel.name);
    described.set_device(kernel.device);
  }
}

v1::PortDescription DescribePort(const Port& port) {
  v1::PortDescription wire;
  wire.set_name(port.name);
  wire.set_type(std::string(Name(port.type)));
  for (const std::vector<Expression>& shape : port.shapes) {
    v1::SymbolicShape& dims = *wire.add_shapes();
    for (const Expression& size : shape) dims.add_dims(size.text());
  }
  wire.set_optional(port.optional);
  if (port.condition) wire.set_condition(port.condition->text());
  wire.set_doc(port.doc);
  wire.set_text(port.text);
  return wire;
}

v1::AttributeDescription DescribeAttribute(const AttrSpec& attribute) {
  v1::AttributeDescription wire;
  wire.set_name(attribute.name);
  wire.set_type(std::string(Name(attribute.type)));
  wire.set_default_value(DefaultText(attribute));
  wire.set_required(attribute.required());
  for (const std::string& choice : attribute.choices) wire.add_choices(choice);
  wire.set_doc(attribute.doc);
  wire.set_text(attribute.text);
  return wire;
}

}  // namespace

std::string DefaultText(const AttrSpec& attribute) {
  if (attribute.default_list) return ToString(*attribute.default_list);
  if (attribute.default_value) return attribute.default_value->text();
  return "";
}

v1::OperatorSummary Summarise(const OpSpec& spec, const std::vector<Engine::KernelName>& kernels) {
  v1::OperatorSummary wire;
  wire.set_id(spec.id());
  wire.set_summary(spec.text().summary);
  wire.set_paper(spec.text().paper);
  wire.set_core(spec.text().core);
  wire.set_stateful(spec.has_state());
  wire.set_packs_sequences(spec.packs());
  DescribeKernels(kernels, wire.mutable_kernels());
  return wire;
}

v1::OperatorDescription Describe(const OpSpec& spec,
                                 const std::vector<Engine::KernelName>& kernels) {
  v1::OperatorDescription wire;
  wire.set_id(spec.id());
  wire.set_summary(spec.text().summary);
  wire.set_paper(spec.text().paper);
  wire.set_core(spec.text().core);
  wire.set_definition(spec.text().definition);
  for (const Port& port : spec.inputs()) *wire.add_inputs() = DescribePort(port);
  for (const Port& port : spec.outputs()) *wire.add_outputs() = DescribePort(port);
  for (const AttrSpec& attribute : spec.attributes()) {
    *wire.add_attributes() = DescribeAttribute(attribute);
  }
  for (const Derived& derived : spec.derived()) {
    wire.add_derived(absl::StrCat(derived.symbol, " = ", derived.value.text()));
  }
  for (const Rule& rule : spec.rules()) {
    wire.add_rules(rule.sentence.empty()
                       ? rule.condition.text()
                       : absl::StrCat(rule.condition.text(), " # ", rule.sentence));
  }
  DescribeKernels(kernels, wire.mutable_kernels());
  wire.set_stateful(spec.has_state());
  wire.set_packs_sequences(spec.packs());
  for (DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64}) {
    v1::ToleranceDescription& tolerance = *wire.add_tolerances();
    tolerance.set_dtype(ToWire(dtype));
    tolerance.set_relative_error(Tolerance(spec, dtype));
  }
  return wire;
}

}  // namespace attnd
