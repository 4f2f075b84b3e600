#include "service/rpc/codec.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/rpc/call_parts.h"
#include "service/rpc/grpc_status.h"
#include "service/rpc/wire_tensor.h"

namespace attnd {
namespace {

absl::Span<const int64_t> ShapeOf(const v1::Tensor& tensor) {
  return absl::MakeConstSpan(tensor.shape().data(), static_cast<size_t>(tensor.shape_size()));
}

absl::StatusOr<DType> DecodeType(const std::string& op, const std::string& name,
                                 const v1::Tensor& tensor) {
  if (std::optional<DType> dtype = FromWire(tensor.dtype())) return *dtype;
  return Refusal(op, name, absl::StrCat("dtype ", static_cast<int>(tensor.dtype())),
                 "BOOL, INT32, INT64, FLOAT16, BFLOAT16, FLOAT32 or FLOAT64");
}

absl::StatusOr<AttrValue> DecodeAttribute(const std::string& op, const std::string& name,
                                          const v1::AttributeValue& value) {
  if (std::optional<AttrValue> decoded = FromWire(value)) return *std::move(decoded);
  return Refusal(op, name, "no value",
                 "one of bool_value, int_value, float_value, string_value or a list");
}

// Names and numbers of everything in a request: cheap, and before any memory is taken.
absl::Status CheckParts(const v1::EvaluateRequest& message) {
  const std::string& op = message.op();
  if (absl::Status s = CheckName("call", "op", op); !s.ok()) return s;
  if (absl::Status s = CheckCount(op, "inputs", message.inputs_size(), kMaxInputs); !s.ok()) {
    return s;
  }
  if (absl::Status s = CheckCount(op, "attributes", message.attributes_size(), kMaxAttributes);
      !s.ok()) {
    return s;
  }
  if (absl::Status s = CheckText(op, "request_id", message.request_id()); !s.ok()) return s;
  if (absl::Status s = CheckText(op, "kernel", message.kernel()); !s.ok()) return s;
  for (const auto& [name, tensor] : message.inputs()) {
    if (absl::Status s = CheckName(op, "input", name); !s.ok()) return s;
  }
  for (const auto& [name, value] : message.attributes()) {
    if (absl::Status s = CheckName(op, "attribute", name); !s.ok()) return s;
  }
  return absl::OkStatus();
}

// A call but for its inputs, which `decode_input` makes.
template <typename DecodeInput>
absl::StatusOr<DecodedCall> Decode(const Registry& registry, const v1::EvaluateRequest& message,
                                   DecodeInput&& decode_input) {
  if (absl::Status s = CheckParts(message); !s.ok()) return s;
  const absl::StatusOr<const Operator*> op = registry.Find(message.op());
  if (!op.ok()) return op.status();
  DecodedCall decoded;
  decoded.op = *op;
  decoded.request_id = message.request_id();
  decoded.wanted.assign(message.outputs().begin(), message.outputs().end());
  decoded.call.priority = message.priority();
  CallRequest& request = decoded.call.request;
  request.op = message.op();
  request.kernel = message.kernel();
  for (const auto& [name, value] : message.attributes()) {
    absl::StatusOr<AttrValue> attribute = DecodeAttribute(message.op(), name, value);
    if (!attribute.ok()) return attribute.status();
    request.attributes.Set(name, *std::move(attribute));
  }
  for (const auto& [name, wire] : message.inputs()) {
    const absl::StatusOr<DType> dtype = DecodeType(message.op(), name, wire);
    if (!dtype.ok()) return dtype.status();
    absl::StatusOr<Tensor> tensor = decode_input(name, *dtype, wire);
    if (!tensor.ok()) return tensor.status();
    request.inputs.Set(name, *std::move(tensor));
  }
  return decoded;
}

uint64_t Microseconds(absl::Duration d) {
  return static_cast<uint64_t>(std::max<int64_t>(0, absl::ToInt64Microseconds(d)));
}

// One entry of EvaluateResponse.outputs.
MessageBuilder EncodeEntry(const std::string& name, const Tensor& tensor, Payload payload) {
  v1::Tensor header;
  header.set_dtype(ToWire(tensor.dtype()));
  header.mutable_shape()->Add(tensor.shape().begin(), tensor.shape().end());
  MessageBuilder value;
  value.Append(header);
  if (payload == Payload::kWithBytes && tensor.num_elements() > 0) {
    value.AppendTensor(v1::Tensor::kDataFieldNumber, tensor);
  }
  MessageBuilder entry;
  entry.AppendString(1, name);  // Map entries: the key is field 1, the value field 2.
  entry.AppendMessage(2, std::move(value));
  return entry;
}

}  // namespace

absl::StatusOr<DecodedCall> DecodeCall(const Registry& registry,
                                       const std::shared_ptr<const v1::EvaluateRequest>& message) {
  absl::StatusOr<DecodedCall> decoded = Decode(
      registry, *message, [&message](const std::string& name, DType dtype, const v1::Tensor& wire) {
        return ViewTensor(message->op(), name, dtype, ShapeOf(wire), wire.data(), message);
      });
  if (!decoded.ok()) return decoded;
  if (absl::Status s = CheckWanted(*decoded->op, decoded->call.request, decoded->wanted); !s.ok()) {
    return s;
  }
  return decoded;
}

absl::StatusOr<int64_t> AnnouncedBytes(const v1::EvaluateRequest& message, int64_t max_tensor_bytes,
                                       int64_t max_call_bytes) {
  if (absl::Status s = CheckParts(message); !s.ok()) return s;
  int64_t total = 0;  // At most 32 tensors of at most 2^43 bytes: no overflow.
  for (const auto& [name, tensor] : message.inputs()) {
    const absl::StatusOr<DType> dtype = DecodeType(message.op(), name, tensor);
    if (!dtype.ok()) return dtype.status();
    const absl::StatusOr<int64_t> bytes =
        CheckedTensorBytes(message.op(), name, *dtype, ShapeOf(tensor));
    if (!bytes.ok()) return bytes.status();
    if (!tensor.data().empty()) {
      return Refusal(message.op(), name, absl::StrCat(tensor.data().size(), " bytes of data"),
                     "a header without data: the bytes follow in chunks");
    }
    if (*bytes > max_tensor_bytes) {
      return absl::ResourceExhaustedError(absl::StrCat(message.op(), ": ", name, ": given ", *bytes,
                                                       " bytes, expected at most ",
                                                       max_tensor_bytes, " for one tensor"));
    }
    total += *bytes;
  }
  if (total > max_call_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(message.op(), ": inputs: given ", total,
                                                     " bytes, expected at most ", max_call_bytes,
                                                     " for one call"));
  }
  return total;
}

absl::StatusOr<DecodedCall> DecodeHeader(const Registry& registry,
                                         const v1::EvaluateRequest& message) {
  return Decode(registry, message,
                [](const std::string& name, DType dtype, const v1::Tensor& wire) {
                  const absl::Span<const int64_t> shape = ShapeOf(wire);
                  return AllocateHost(dtype, Dims(shape.begin(), shape.end()));
                });
}

absl::StatusOr<std::optional<RandomCompare>> DecodeRandom(const v1::CompareRequest& message,
                                                          int64_t max_elements) {
  const std::string& op = message.call().op();
  if (message.call().inputs_size() > 0) {
    if (message.has_random()) {
      return Refusal(op, "random", "beside inputs", "either inputs or random ones");
    }
    return std::optional<RandomCompare>();
  }
  RandomCompare random;
  random.seed = message.random().seed();
  if (message.random().dtype() != v1::DATA_TYPE_UNSPECIFIED) {
    const std::optional<DType> dtype = FromWire(message.random().dtype());
    if (!dtype || !IsFloating(*dtype)) {
      return Refusal(op, "random.dtype",
                     absl::StrCat("dtype ", static_cast<int>(message.random().dtype())),
                     "FLOAT16, BFLOAT16, FLOAT32 or FLOAT64");
    }
    random.dtype = *dtype;
  }
  if (absl::Status s = CheckCount(op, "random.dims", message.random().dims_size(), kMaxAttributes);
      !s.ok()) {
    return s;
  }
  int64_t product = 1;
  for (const auto& [symbol, size] : message.random().dims()) {
    if (absl::Status s = CheckName(op, "random.dims", symbol); !s.ok()) return s;
    if (size < 0 || __builtin_mul_overflow(product, std::max<int64_t>(size, 1), &product) ||
        product > max_elements) {
      return Refusal(op, absl::StrCat("random.dims ", symbol), absl::StrCat(size),
                     absl::StrCat("sizes from 0 whose product is at most ", max_elements));
    }
    random.dims.Set(symbol, size);
  }
  return std::optional<RandomCompare>(std::move(random));
}

MessageBuilder EncodeResponse(const EngineResult& result, const NamedTensors& outputs,
                              const std::string& request_id, absl::Duration total,
                              Payload payload) {
  v1::EvaluateResponse header;
  header.set_kernel(result.evaluation.kernel);
  header.set_device(result.evaluation.device);
  header.set_request_id(request_id);
  header.set_batch_size(result.batch_size);
  v1::Timing& timing = *header.mutable_timing();
  timing.set_queue_us(Microseconds(result.queue));
  timing.set_compute_us(Microseconds(result.evaluation.compute));
  timing.set_total_us(Microseconds(total));
  MessageBuilder response;
  response.Append(header);
  for (const auto& [name, tensor] : outputs) {
    response.AppendMessage(v1::EvaluateResponse::kOutputsFieldNumber,
                           EncodeEntry(name, tensor, payload));
  }
  return response;
}

v1::CallError EncodeError(const std::string& request_id, const absl::Status& status) {
  v1::CallError error;
  error.set_request_id(request_id);
  error.set_code(static_cast<int32_t>(status.code()));
  error.set_message(WireMessage(status));
  error.set_reason(ReasonOf(status));
  return error;
}

}  // namespace attnd
