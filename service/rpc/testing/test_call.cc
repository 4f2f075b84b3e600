#include "service/rpc/testing/test_call.h"

#include <cstring>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "service/rpc/codec.h"
#include "service/rpc/infer_codec.h"

namespace attnd {
namespace {

struct NativeAttribute {
  v1::AttributeValue& wire;
  void operator()(bool value) const { wire.set_bool_value(value); }
  void operator()(int64_t value) const { wire.set_int_value(value); }
  void operator()(double value) const { wire.set_float_value(value); }
  void operator()(const std::string& value) const { wire.set_string_value(value); }
  void operator()(const std::vector<bool>& list) const {
    for (bool value : list) wire.mutable_bool_list()->add_values(value);
    wire.mutable_bool_list();
  }
  void operator()(const std::vector<int64_t>& list) const {
    wire.mutable_int_list()->mutable_values()->Add(list.begin(), list.end());
  }
  void operator()(const std::vector<double>& list) const {
    wire.mutable_float_list()->mutable_values()->Add(list.begin(), list.end());
  }
};

struct InferenceAttribute {
  inference::InferParameter& wire;
  void operator()(bool value) const { wire.set_bool_param(value); }
  void operator()(int64_t value) const { wire.set_int64_param(value); }
  void operator()(double value) const { wire.set_double_param(value); }
  void operator()(const std::string& value) const { wire.set_string_param(value); }
  template <typename T>
  void operator()(const std::vector<T>& list) const {
    std::vector<std::string> items;
    for (const auto& value : list) {
      if constexpr (std::is_same_v<T, bool>) {
        items.push_back(value ? "true" : "false");
      } else {
        items.push_back(absl::StrCat(value));
      }
    }
    wire.set_string_param(absl::StrCat("[", absl::StrJoin(items, ", "), "]"));
  }
};

}  // namespace

TestTensor Zeros(DType dtype, std::vector<int64_t> shape) {
  const int64_t count =
      std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<int64_t>());
  return {dtype, std::move(shape), std::string(static_cast<size_t>(count) * SizeOf(dtype), '\0')};
}

std::vector<float> Floats(const std::string& bytes) {
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

v1::EvaluateRequest TestCall::ToNative() const {
  v1::EvaluateRequest wire;
  wire.set_op(op);
  wire.set_kernel(kernel);
  for (const auto& [name, tensor] : inputs) {
    v1::Tensor& input = (*wire.mutable_inputs())[name];
    input.set_dtype(ToWire(tensor.dtype));
    input.mutable_shape()->Add(tensor.shape.begin(), tensor.shape.end());
    input.set_data(tensor.data);
  }
  for (const auto& [name, value] : attributes) {
    std::visit(NativeAttribute{(*wire.mutable_attributes())[name]}, value);
  }
  for (const std::string& name : outputs) wire.add_outputs(name);
  return wire;
}

inference::ModelInferRequest TestCall::ToInference() const {
  inference::ModelInferRequest wire;
  wire.set_model_name(op);
  if (!kernel.empty()) (*wire.mutable_parameters())["attnd_kernel"].set_string_param(kernel);
  for (const auto& [name, tensor] : inputs) {
    auto& input = *wire.add_inputs();
    input.set_name(name);
    input.set_datatype(std::string(InferenceTypeName(tensor.dtype)));
    input.mutable_shape()->Add(tensor.shape.begin(), tensor.shape.end());
    wire.add_raw_input_contents(tensor.data);
  }
  for (const auto& [name, value] : attributes) {
    std::visit(InferenceAttribute{(*wire.mutable_parameters())[name]}, value);
  }
  for (const std::string& name : outputs) wire.add_outputs()->set_name(name);
  return wire;
}

TestCall RecurrenceCall(int64_t tokens) {
  TestCall call;
  call.op = "toy_recurrence";
  call.inputs["q"] = Zeros(DType::kFloat32, {1, tokens, 2, 4});
  call.inputs["k"] = Zeros(DType::kFloat32, {1, tokens, 1, 4});
  std::vector<float> v(static_cast<size_t>(tokens) * 8);
  std::iota(v.begin(), v.end(), 1.0f);
  call.inputs["v"] = Values<float>({1, tokens, 2, 4}, v);
  return call;
}

TestCall SelectCall() {
  TestCall call;
  call.op = "toy_select";
  call.inputs["q"] = Zeros(DType::kFloat32, {1, 4, 1, 2});
  call.inputs["index"] = Zeros(DType::kInt32, {1, 4, 2});
  call.inputs["mask"] = Zeros(DType::kBool, {4, 2});
  call.attributes = {{"height", int64_t{2}}, {"width", int64_t{2}}};
  return call;
}

}  // namespace attnd
