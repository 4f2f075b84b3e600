#include "service/rpc/language_codec.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include "service/rpc/infer_codec.h"
#include "service/rpc/infer_parameters.h"
#include "service/rpc/model_description.h"
#include "service/rpc/wire_tensor.h"
#include "service/session/requests.h"

namespace attnd {
namespace {

using inference::InferParameter;
using inference::ModelInferRequest;

constexpr char kTokens[] = "tokens";
constexpr char kText[] = "text";
constexpr char kLogprobs[] = "logprobs";
constexpr char kLogits[] = "logits";
constexpr absl::string_view kOutputs[] = {kTokens, kText, kLogprobs, kLogits};

// Elements of type BYTES are a length in four bytes, the lowest first, and so many bytes.
constexpr size_t kLengthBytes = 4;

// ---- Inputs.

absl::Status DecodeTokens(absl::string_view model, const Tensor& tensor,
                          std::vector<uint32_t>& out) {
  if ((tensor.dtype() != DType::kInt32 && tensor.dtype() != DType::kInt64) || tensor.rank() != 1) {
    return Refusal(model, kTokens, tensor.DebugString(), "INT32 [N], the ids of N tokens");
  }
  for (int64_t i = 0; i < tensor.num_elements(); ++i) {
    const int64_t token =
        tensor.dtype() == DType::kInt32 ? tensor.data<int32_t>()[i] : tensor.data<int64_t>()[i];
    if (token < 0 || token > std::numeric_limits<int32_t>::max()) {
      return Refusal(model, kTokens, absl::StrCat(token, " at ", i),
                     "ids of the model's vocabulary");
    }
    out.push_back(static_cast<uint32_t>(token));
  }
  return absl::OkStatus();
}

// The one text of an input of type BYTES.
absl::StatusOr<std::string> DecodeText(absl::string_view model, const ModelInferRequest& message,
                                       int index) {
  const auto& input = message.inputs(index);
  if (absl::Status s = CheckTensorParameters(model, kText, input.parameters()); !s.ok()) return s;
  const absl::Span<const int64_t> shape(input.shape().data(),
                                        static_cast<size_t>(input.shape_size()));
  if (input.datatype() != "BYTES" ||
      std::any_of(shape.begin(), shape.end(), [](int64_t size) { return size != 1; })) {
    return Refusal(model, kText, absl::StrCat(Quoted(input.datatype()), ToString(shape)),
                   "BYTES [1], one text");
  }
  if (message.raw_input_contents_size() > 0) {
    const std::string& raw = message.raw_input_contents(index);
    uint32_t length = 0;
    if (raw.size() >= kLengthBytes) std::memcpy(&length, raw.data(), kLengthBytes);
    if (raw.size() < kLengthBytes || length != raw.size() - kLengthBytes) {
      return Refusal(model, kText, absl::StrCat(raw.size(), " raw bytes"),
                     "four bytes with a length, and so many bytes");
    }
    return raw.substr(kLengthBytes);
  }
  if (input.contents().bytes_contents_size() != 1) {
    return Refusal(model, kText, absl::StrCat(input.contents().bytes_contents_size(), " elements"),
                   "one in bytes_contents");
  }
  return input.contents().bytes_contents(0);
}

absl::Status DecodeInputs(const std::shared_ptr<const ModelInferRequest>& message,
                          LanguageCall& call) {
  const std::string& model = message->model_name();
  if (absl::Status s = CheckInputs(model, *message); !s.ok()) return s;
  NamedTensors tensors;
  for (int i = 0; i < message->inputs_size(); ++i) {
    const std::string& name = message->inputs(i).name();
    if (name == kText) {
      if (!call.step.text.empty()) return Refusal(model, kText, "twice", "each input once");
      absl::StatusOr<std::string> text = DecodeText(model, *message, i);
      if (!text.ok()) return text.status();
      call.step.text = *std::move(text);
    } else if (name == kTokens) {
      if (absl::Status s = DecodeInput(model, message, i, tensors); !s.ok()) return s;
      if (absl::Status s = DecodeTokens(model, *tensors.Find(kTokens), call.step.tokens); !s.ok()) {
        return s;
      }
    } else {
      return Refusal(model, "inputs", absl::StrCat("'", Quoted(name), "'"), "tokens or text");
    }
  }
  if (call.step.tokens.empty() || call.step.text.empty()) return absl::OkStatus();
  return Refusal(model, "inputs", "tokens and text", "one of them");
}

// ---- Parameters.

// Reads the parameters that language models have.
class Parameters {
 public:
  Parameters(absl::string_view model, SequenceStepCall& step) : model_(model), step_(step) {}

  // nullopt: there is no such parameter.
  std::optional<absl::Status> Read(absl::string_view name, const InferParameter& value) {
    v1::Sampling& sampling = step_.sampling;
    if (name == "max_new_tokens") return Count(name, value, step_.max_new_tokens);
    if (name == "seed") return Integer(name, value, step_.seed);
    if (name == "temperature")
      return Real(name, value, [&](float v) { sampling.set_temperature(v); });
    if (name == "top_p") return Real(name, value, [&](float v) { sampling.set_top_p(v); });
    if (name == "min_p") return Real(name, value, [&](float v) { sampling.set_min_p(v); });
    if (name == "repetition_penalty") {
      return Real(name, value, [&](float v) { sampling.set_repetition_penalty(v); });
    }
    uint32_t count = 0;
    if (name == "top_k") {
      absl::Status read = Count(name, value, count);
      sampling.set_top_k(count);
      return read;
    }
    if (name == "repetition_window") {
      absl::Status read = Count(name, value, count);
      sampling.set_repetition_window(count);
      return read;
    }
    if (name == "ignore_eos") {
      if (value.parameter_choice_case() != InferParameter::kBoolParam) {
        return Refuse(name, value, "a bool");
      }
      step_.stop.set_ignore_eos(value.bool_param());
      return absl::OkStatus();
    }
    if (name == "stop") return Stop(value);
    if (name == "attnd_expected_position") {
      uint64_t position = 0;
      absl::Status read = Integer(name, value, position);
      step_.expected_position = position;
      return read;
    }
    if (name == "attnd_durability") return Durability(value);
    return std::nullopt;
  }

 private:
  absl::Status Refuse(absl::string_view name, const InferParameter& value,
                      absl::string_view expected) const {
    return Refusal(model_, name, Given(value), expected);
  }

  absl::Status Integer(absl::string_view name, const InferParameter& value, uint64_t& out) const {
    const std::optional<int64_t> integer = IntegerOf(value);
    if (value.parameter_choice_case() == InferParameter::kUint64Param) {
      out = value.uint64_param();
    } else if (integer && *integer >= 0) {
      out = static_cast<uint64_t>(*integer);
    } else {
      return Refuse(name, value, "an integer of at least 0");
    }
    return absl::OkStatus();
  }

  absl::Status Count(absl::string_view name, const InferParameter& value, uint32_t& out) const {
    uint64_t integer = 0;
    if (absl::Status s = Integer(name, value, integer); !s.ok()) return s;
    if (integer > std::numeric_limits<uint32_t>::max()) {
      return Refuse(name, value, "an integer below 2^32");
    }
    out = static_cast<uint32_t>(integer);
    return absl::OkStatus();
  }

  template <typename Set>
  absl::Status Real(absl::string_view name, const InferParameter& value, Set set) const {
    if (value.parameter_choice_case() == InferParameter::kDoubleParam) {
      set(static_cast<float>(value.double_param()));
    } else if (const std::optional<int64_t> integer = IntegerOf(value)) {
      set(static_cast<float>(*integer));
    } else {
      return Refuse(name, value, "a number");
    }
    return absl::OkStatus();
  }

  absl::Status Stop(const InferParameter& value) {
    constexpr absl::string_view kExpected =
        "a text, or a list of texts as JSON: '[\"\\n\", \"END\"]'";
    if (value.parameter_choice_case() != InferParameter::kStringParam) {
      return Refuse("stop", value, kExpected);
    }
    const std::string& text = value.string_param();
    if (text.empty() || text[0] != '[') {
      step_.stop.add_sequences(text);
      return absl::OkStatus();
    }
    constexpr size_t kLongest = 64 << 10;
    nlohmann::json list;
    if (text.size() <= kLongest) {
      list = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
    }
    if (!list.is_array()) return Refuse("stop", value, kExpected);
    for (const nlohmann::json& entry : list) {
      if (!entry.is_string()) return Refuse("stop", value, kExpected);
      step_.stop.add_sequences(entry.get<std::string>());
    }
    return absl::OkStatus();
  }

  absl::Status Durability(const InferParameter& value) {
    for (const auto& [name, durability] :
         {std::pair("none", v1::NONE), std::pair("async", v1::ASYNC),
          std::pair("sync", v1::SYNC)}) {
      if (value.parameter_choice_case() == InferParameter::kStringParam &&
          value.string_param() == name) {
        step_.durability = durability;
        return absl::OkStatus();
      }
    }
    return Refuse("attnd_durability", value, "'none', 'async' or 'sync'");
  }

  const absl::string_view model_;
  SequenceStepCall& step_;
};

absl::Status DecodeParameters(const ModelInferRequest& message, LanguageCall& call) {
  const std::string& model = message.model_name();
  if (absl::Status s = CheckCount(model, "parameters",
                                  static_cast<int64_t>(message.parameters_size()), kMaxAttributes);
      !s.ok()) {
    return s;
  }
  Parameters own(model, call.step);
  ReservedParameters reserved;
  for (const auto& [name, value] : message.parameters()) {
    if (absl::Status s = CheckName(model, "parameter", name); !s.ok()) return s;
    std::optional<absl::Status> read = own.Read(name, value);
    if (!read) read = ReadReserved(model, name, value, reserved);
    if (!read) {
      return Refusal(model, "parameters", absl::StrCat("'", Quoted(name), "'"),
                     "max_new_tokens, temperature, top_k, top_p, min_p, repetition_penalty, "
                     "repetition_window, seed, stop, ignore_eos, attnd_expected_position or "
                     "attnd_durability");
    }
    if (!read->ok()) return *read;
  }
  if (!reserved.kernel.empty()) {
    return Refusal(model, "kernel", Quoted(reserved.kernel),
                   "none: a language model has no kernels");
  }
  call.deadline = reserved.deadline;
  const SequenceStep& sequence = reserved.sequence;
  call.step.start = sequence.start;
  call.step.end = sequence.end;
  if (sequence.id.empty()) {
    if (!sequence.start && !sequence.end && !call.step.expected_position) return absl::OkStatus();
    return Refusal(model,
                   sequence.start ? "sequence_start"
                   : sequence.end ? "sequence_end"
                                  : "attnd_expected_position",
                   "without sequence_id", "a sequence_id that is not 0 or empty");
  }
  call.step.session = SequenceSession(call.step.model, sequence.id);
  if (CheckSessionId("", call.step.session).ok()) return absl::OkStatus();
  return Refusal(model, "sequence_id", absl::StrCat(sequence.id.size(), " bytes"),
                 absl::StrCat("fewer: its session would be ", Quoted(call.step.session)));
}

// ---- Outputs.

std::string BytesElement(absl::string_view text) {
  const auto length = static_cast<uint32_t>(text.size());
  std::string bytes(reinterpret_cast<const char*>(&length), kLengthBytes);
  return bytes.append(text.data(), text.size());
}

template <typename T>
std::string Raw(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

struct PortText {
  const char* name;
  const char* datatype;
  inference::DataType config_type;
  int64_t size;
};

std::vector<PortText> Inputs() {
  return {{kTokens, "INT32", inference::TYPE_INT32, -1},
          {kText, "BYTES", inference::TYPE_STRING, 1}};
}

std::vector<PortText> Outputs(const v1::Model& model) {
  return {{kTokens, "INT32", inference::TYPE_INT32, -1},
          {kText, "BYTES", inference::TYPE_STRING, 1},
          {kLogprobs, "FP32", inference::TYPE_FP32, -1},
          {kLogits, "FP32", inference::TYPE_FP32, static_cast<int64_t>(model.vocab_size())}};
}

}  // namespace

bool LanguageCall::Wants(absl::string_view output) const {
  if (outputs.empty()) return output != kLogits;
  return std::find(outputs.begin(), outputs.end(), output) != outputs.end();
}

std::string SequenceSession(absl::string_view model, absl::string_view id) {
  std::string name = "seq.n";
  if (absl::ConsumePrefix(&id, "'")) {
    absl::ConsumeSuffix(&id, "'");
    name.back() = 't';
  }
  for (const char c : id) {
    if (absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-') {
      name.push_back(c);
    } else {
      absl::StrAppend(&name, "_", absl::BytesToHexString(absl::string_view(&c, 1)));
    }
  }
  return absl::StrCat(name, ".", model);
}

absl::StatusOr<LanguageCall> DecodeLanguage(
    const std::shared_ptr<const ModelInferRequest>& message) {
  const std::string& model = message->model_name();
  LanguageCall call;
  call.model_name = model;
  call.id = message->id();
  call.step.model = std::string(absl::StripPrefix(model, kLanguagePrefix));
  if (absl::Status s = CheckText(model, "id", message->id()); !s.ok()) return s;
  if (absl::Status s = DecodeParameters(*message, call); !s.ok()) return s;
  if (absl::Status s = DecodeInputs(message, call); !s.ok()) return s;
  for (const auto& output : message->outputs()) {
    if (absl::Status s = CheckTensorParameters(model, Quoted(output.name()), output.parameters());
        !s.ok()) {
      return s;
    }
    if (std::find(std::begin(kOutputs), std::end(kOutputs), output.name()) == std::end(kOutputs)) {
      return Refusal(model, "outputs", absl::StrCat("'", Quoted(output.name()), "'"),
                     absl::StrJoin(kOutputs, ", "));
    }
    if (call.Wants(output.name()) && !call.outputs.empty()) {
      return Refusal(model, output.name(), "twice", "each output once");
    }
    call.outputs.push_back(output.name());
  }
  call.step.logits = call.Wants(kLogits);
  call.step.sampling.set_logprobs(call.Wants(kLogprobs));
  return call;
}

MessageBuilder EncodeLanguage(const LanguageCall& call, const SequenceStepAnswer& answer,
                              bool streamed) {
  inference::ModelInferResponse response;
  response.set_model_name(call.model_name);
  response.set_model_version(std::string(kModelVersion));
  response.set_id(call.id);
  auto& parameters = *response.mutable_parameters();
  parameters["attnd_position"].set_int64_param(static_cast<int64_t>(answer.position));
  if (answer.finish != v1::NOT_FINISHED) {
    parameters["attnd_finish"].set_string_param(
        absl::AsciiStrToLower(v1::FinishReason_Name(answer.finish)));
  }
  // A step answers once, so every answer is the last of its request.
  if (streamed) parameters["triton_final_response"].set_bool_param(true);
  const auto add = [&](const char* name, const char* type, size_t count, std::string bytes) {
    auto& output = *response.add_outputs();
    output.set_name(name);
    output.set_datatype(type);
    output.add_shape(static_cast<int64_t>(count));
    response.add_raw_output_contents(std::move(bytes));
  };
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  for (const v1::SampledToken& token : answer.tokens) {
    tokens.push_back(static_cast<int32_t>(token.token()));
    logprobs.push_back(token.logprob());
  }
  if (call.Wants(kTokens)) add(kTokens, "INT32", tokens.size(), Raw(tokens));
  if (call.Wants(kText)) add(kText, "BYTES", 1, BytesElement(answer.text));
  if (call.Wants(kLogprobs)) add(kLogprobs, "FP32", logprobs.size(), Raw(logprobs));
  if (call.Wants(kLogits)) add(kLogits, "FP32", answer.logits.size(), Raw(answer.logits));
  MessageBuilder builder;
  builder.Append(response);
  return builder;
}

inference::ModelMetadataResponse LanguageMetadata(const std::string& name, const v1::Model& model) {
  inference::ModelMetadataResponse wire = BeginMetadata(name);
  const auto fill = [](const PortText& port, auto* out) {
    out->set_name(port.name);
    out->set_datatype(port.datatype);
    out->add_shape(port.size);
  };
  for (const PortText& port : Inputs()) fill(port, wire.add_inputs());
  for (const PortText& port : Outputs(model)) fill(port, wire.add_outputs());
  return wire;
}

inference::ModelConfig LanguageConfig(const std::string& name, const v1::Model& model,
                                      absl::Duration sequence_idle) {
  inference::ModelConfig wire = BeginConfig(name);
  const auto fill = [](const PortText& port, auto* out) {
    out->set_name(port.name);
    out->set_data_type(port.config_type);
    out->add_dims(port.size);
  };
  for (const PortText& port : Inputs()) {
    inference::ModelInput& input = *wire.add_input();
    fill(port, &input);
    input.set_optional(true);
  }
  for (const PortText& port : Outputs(model)) fill(port, wire.add_output());
  const auto tell = [&](const char* key, std::string value) {
    (*wire.mutable_parameters())[key].set_string_value(std::move(value));
  };
  tell("model_type", model.model_type());
  tell("weights_hash", model.weights_hash());
  tell("vocab_size", absl::StrCat(model.vocab_size()));
  AddSequences(sequence_idle, wire);
  return wire;
}

}  // namespace attnd
