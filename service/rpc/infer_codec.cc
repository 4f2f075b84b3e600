#include "service/rpc/infer_codec.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "service/rpc/call_parts.h"
#include "service/rpc/infer_parameters.h"
#include "service/rpc/wire_tensor.h"

namespace attnd {
namespace {

using inference::InferTensorContents;
using inference::ModelInferRequest;
using Input = ModelInferRequest::InferInputTensor;

constexpr std::pair<absl::string_view, DType> kTypes[] = {
    {"BOOL", DType::kBool},    {"INT32", DType::kInt32},   {"INT64", DType::kInt64},
    {"FP16", DType::kFloat16}, {"BF16", DType::kBFloat16}, {"FP32", DType::kFloat32},
    {"FP64", DType::kFloat64},
};

absl::StatusOr<DType> DecodeType(absl::string_view op, const Input& input) {
  for (const auto& [name, dtype] : kTypes) {
    if (name == input.datatype()) return dtype;
  }
  return Refusal(op, input.name(), absl::StrCat("datatype '", Quoted(input.datatype()), "'"),
                 absl::StrJoin(kTypes, ", ", [](std::string* out, const auto& type) {
                   absl::StrAppend(out, type.first);
                 }));
}

template <typename Values>
absl::string_view BytesOf(const Values& values) {
  return absl::string_view(reinterpret_cast<const char*>(values.data()),
                           static_cast<size_t>(values.size()) * sizeof(*values.data()));
}

// One of the lists of InferTensorContents.
struct Contents {
  absl::string_view name;
  int count;
  std::optional<DType> dtype;  // That it carries; operators take no others.
  absl::string_view bytes;
};

std::vector<Contents> Lists(const InferTensorContents& c) {
  return {
      {"bool_contents", c.bool_contents_size(), DType::kBool, BytesOf(c.bool_contents())},
      {"int_contents", c.int_contents_size(), DType::kInt32, BytesOf(c.int_contents())},
      {"int64_contents", c.int64_contents_size(), DType::kInt64, BytesOf(c.int64_contents())},
      {"uint_contents", c.uint_contents_size(), std::nullopt, {}},
      {"uint64_contents", c.uint64_contents_size(), std::nullopt, {}},
      {"fp32_contents", c.fp32_contents_size(), DType::kFloat32, BytesOf(c.fp32_contents())},
      {"fp64_contents", c.fp64_contents_size(), DType::kFloat64, BytesOf(c.fp64_contents())},
      {"bytes_contents", c.bytes_contents_size(), std::nullopt, {}},
  };
}

// The bytes of an input that comes as numbers.
absl::StatusOr<absl::string_view> TypedBytes(absl::string_view op, const Input& input, DType dtype,
                                             int64_t elements) {
  absl::string_view bytes("");
  absl::string_view expected;
  int64_t given = 0;
  for (const Contents& list : Lists(input.contents())) {
    if (list.dtype == dtype) {
      expected = list.name;
      given = list.count;
      if (list.count > 0) bytes = list.bytes;
      continue;
    }
    if (list.count > 0) {
      return Refusal(op, input.name(), absl::StrCat(list.name, " for ", input.datatype()),
                     dtype == DType::kFloat16 || dtype == DType::kBFloat16
                         ? "raw_input_contents: this type has no other form"
                         : "contents of the datatype alone");
    }
  }
  if (given == elements) return bytes;
  if (expected.empty()) {
    return Refusal(op, input.name(), "no contents",
                   absl::StrCat("raw_input_contents: ", input.datatype(), " has no other form"));
  }
  return Refusal(op, input.name(), absl::StrCat(given, " ", expected),
                 absl::StrCat(elements, " for ", input.datatype()));
}

absl::Status DecodeInputs(absl::string_view op,
                          const std::shared_ptr<const ModelInferRequest>& message,
                          NamedTensors& inputs) {
  if (absl::Status s = CheckInputs(op, *message); !s.ok()) return s;
  for (int i = 0; i < message->inputs_size(); ++i) {
    if (absl::Status s = DecodeInput(op, message, i, inputs); !s.ok()) return s;
  }
  return absl::OkStatus();
}

// What the server keeps of a sequence is not the client's to give, but for its beginning.
absl::Status CheckSequence(const Operator& op, const InferCall& call) {
  const SequenceStep& step = call.sequence;
  const std::string& id = op.spec.id();
  if (step.id.empty()) {
    if (!step.start && !step.end) return absl::OkStatus();
    return Refusal(id, step.start ? "sequence_start" : "sequence_end", "without sequence_id",
                   "a sequence_id that is not 0 or empty");
  }
  if (!op.spec.has_state()) {
    return Refusal(id, "sequence_id", Quoted(step.id), "none: this operator has no state");
  }
  for (const auto& [name, tensor] : call.call.request.inputs) {
    if (step.start || FinalStateName(name).empty()) continue;
    return Refusal(id, name, absl::StrCat("within sequence ", Quoted(step.id)),
                   "none but with sequence_start: the server keeps it");
  }
  return absl::OkStatus();
}

void SetParameter(inference::ModelInferResponse& response, const char* name,
                  const std::string& value) {
  (*response.mutable_parameters())[name].set_string_param(value);
}

}  // namespace

absl::StatusOr<const Operator*> FindModel(const Registry& registry, absl::string_view name,
                                          absl::string_view version) {
  if (absl::Status s = CheckName("call", "model", name); !s.ok()) return s;
  absl::string_view id = name;
  absl::ConsumePrefix(&id, "op.");
  absl::StatusOr<const Operator*> op = registry.Find(id);
  if (op.ok() && !version.empty() && version != kModelVersion) {
    return absl::NotFoundError(absl::StrCat(name, ": version: given '", Quoted(version),
                                            "', expected '", kModelVersion, "' or none"));
  }
  return op;
}

absl::string_view InferenceTypeName(DType dtype) {
  for (const auto& [name, type] : kTypes) {
    if (type == dtype) return name;
  }
  return "";
}

absl::Status CheckTensorParameters(
    absl::string_view op, const std::string& tensor,
    const google::protobuf::Map<std::string, inference::InferParameter>& parameters) {
  for (const auto& [name, value] : parameters) {
    if (absl::StartsWith(name, "shared_memory_")) {
      return absl::UnimplementedError(
          absl::StrCat(op, ": ", tensor, ": given ", Quoted(name),
                       ", expected tensors in the message: shared memory is not offered"));
    }
    if (name == "classification") {
      return absl::UnimplementedError(absl::StrCat(
          op, ": ", tensor, ": given classification, expected none: outputs are tensors"));
    }
    // Hints of other transports, without meaning here.
    if (name == "binary_data" || name == "binary_data_size" || name == "content_type") continue;
    return Refusal(op, tensor, absl::StrCat("the parameter '", Quoted(name), "'"),
                   "none: attributes are parameters of the request");
  }
  return absl::OkStatus();
}

absl::Status DecodeInput(absl::string_view op,
                         const std::shared_ptr<const ModelInferRequest>& message, int index,
                         NamedTensors& inputs) {
  const Input& input = message->inputs(index);
  if (absl::Status s = CheckName(op, absl::StrCat("inputs[", index, "]"), input.name()); !s.ok()) {
    return s;
  }
  if (inputs.contains(input.name())) {
    return Refusal(op, input.name(), "twice", "each input once");
  }
  if (absl::Status s = CheckTensorParameters(op, input.name(), input.parameters()); !s.ok()) {
    return s;
  }
  const absl::StatusOr<DType> dtype = DecodeType(op, input);
  if (!dtype.ok()) return dtype.status();
  const absl::Span<const int64_t> shape(input.shape().data(),
                                        static_cast<size_t>(input.shape_size()));
  absl::string_view bytes;
  if (message->raw_input_contents_size() > 0) {
    if (input.has_contents()) {
      return Refusal(op, input.name(), "contents beside raw_input_contents", "one of them");
    }
    bytes = message->raw_input_contents(index);
  } else {
    const absl::StatusOr<int64_t> size = CheckedTensorBytes(op, input.name(), *dtype, shape);
    if (!size.ok()) return size.status();
    const absl::StatusOr<absl::string_view> typed =
        TypedBytes(op, input, *dtype, *size / static_cast<int64_t>(SizeOf(*dtype)));
    if (!typed.ok()) return typed.status();
    bytes = *typed;
  }
  absl::StatusOr<Tensor> tensor = ViewTensor(op, input.name(), *dtype, shape, bytes, message);
  if (!tensor.ok()) return tensor.status();
  inputs.Set(input.name(), *std::move(tensor));
  return absl::OkStatus();
}

absl::Status CheckInputs(absl::string_view op, const ModelInferRequest& message) {
  const int raw = message.raw_input_contents_size();
  if (absl::Status s = CheckCount(op, "inputs", message.inputs_size(), kMaxInputs); !s.ok()) {
    return s;
  }
  if (raw == 0 || raw == message.inputs_size()) return absl::OkStatus();
  return Refusal(op, "raw_input_contents", absl::StrCat(raw, " entries"),
                 absl::StrCat(message.inputs_size(), ", one for each of inputs"));
}

absl::StatusOr<InferCall> DecodeInfer(const Registry& registry,
                                      const std::shared_ptr<const ModelInferRequest>& message) {
  const absl::StatusOr<const Operator*> op =
      FindModel(registry, message->model_name(), message->model_version());
  if (!op.ok()) return op.status();
  const std::string& id = (*op)->spec.id();
  InferCall call;
  call.op = *op;
  call.model_name = message->model_name();
  call.id = message->id();
  call.call.request.op = id;
  if (absl::Status s = CheckText(id, "id", message->id()); !s.ok()) return s;
  if (absl::Status s = DecodeParameters((*op)->spec, message->parameters(), call); !s.ok()) {
    return s;
  }
  if (absl::Status s = DecodeInputs(id, message, call.call.request.inputs); !s.ok()) return s;
  if (absl::Status s = CheckSequence(**op, call); !s.ok()) return s;
  for (const auto& output : message->outputs()) {
    if (absl::Status s = CheckTensorParameters(id, Quoted(output.name()), output.parameters());
        !s.ok()) {
      return s;
    }
    call.wanted.push_back(output.name());
  }
  if (absl::Status s = CheckWantedNames((*op)->spec, call.wanted); !s.ok()) return s;
  return call;
}

MessageBuilder EncodeInfer(const InferCall& call, const EngineResult& result,
                           const NamedTensors& outputs, bool streamed) {
  inference::ModelInferResponse header;
  header.set_model_name(call.model_name);
  header.set_model_version(std::string(kModelVersion));
  header.set_id(call.id);
  SetParameter(header, "attnd_kernel", result.evaluation.kernel);
  SetParameter(header, "attnd_device", result.evaluation.device);
  (*header.mutable_parameters())["attnd_batch_size"].set_int64_param(result.batch_size);
  if (streamed) {
    // Operators answer once, so every answer is the last of its request.
    (*header.mutable_parameters())["triton_final_response"].set_bool_param(true);
  }
  for (const auto& [name, tensor] : outputs) {
    auto& output = *header.add_outputs();
    output.set_name(name);
    output.set_datatype(std::string(InferenceTypeName(tensor.dtype())));
    output.mutable_shape()->Add(tensor.shape().begin(), tensor.shape().end());
  }
  MessageBuilder response;
  response.Append(header);
  for (const auto& [name, tensor] : outputs) {
    response.AppendTensor(inference::ModelInferResponse::kRawOutputContentsFieldNumber, tensor);
  }
  return response;
}

}  // namespace attnd
