#include "clients/cpp/messages.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace attnd::client {
namespace {

constexpr size_t kChunkBytes = size_t{1} << 20;

struct SetAttribute {
  v1::AttributeValue& out;
  void operator()(bool value) const { out.set_bool_value(value); }
  void operator()(int64_t value) const { out.set_int_value(value); }
  void operator()(double value) const { out.set_float_value(value); }
  void operator()(const std::string& value) const { out.set_string_value(value); }
  void operator()(const std::vector<bool>& values) const {
    out.mutable_bool_list()->mutable_values()->Add(values.begin(), values.end());
  }
  void operator()(const std::vector<int64_t>& values) const {
    out.mutable_int_list()->mutable_values()->Add(values.begin(), values.end());
  }
  void operator()(const std::vector<double>& values) const {
    out.mutable_float_list()->mutable_values()->Add(values.begin(), values.end());
  }
};

// Everything but the tensors.
v1::EvaluateRequest Header(const Call& call) {
  v1::EvaluateRequest request;
  request.set_op(call.op);
  request.set_kernel(call.kernel);
  request.set_priority(call.priority);
  for (const std::string& output : call.outputs) request.add_outputs(output);
  for (const auto& [name, value] : call.attributes) {
    std::visit(SetAttribute{(*request.mutable_attributes())[name]}, value);
  }
  return request;
}

void Announce(const Tensor& tensor, v1::Tensor& out) {
  out.set_dtype(tensor.dtype);
  out.mutable_shape()->Add(tensor.shape.begin(), tensor.shape.end());
}

absl::StatusOr<int64_t> AnnouncedBytes(const std::string& name, const v1::Tensor& tensor) {
  const std::vector<int64_t> shape(tensor.shape().begin(), tensor.shape().end());
  auto bytes = ByteSize(tensor.dtype(), shape);
  if (bytes.ok()) return bytes;
  return absl::InternalError(absl::StrCat("output ", name, ": ", bytes.status().message()));
}

}  // namespace

int64_t InputBytes(const Call& call) {
  int64_t bytes = 0;
  for (const auto& [name, tensor] : call.inputs) bytes += static_cast<int64_t>(tensor.bytes.size());
  return bytes;
}

v1::EvaluateRequest ToRequest(Call&& call) {
  v1::EvaluateRequest request = Header(call);
  for (auto& [name, tensor] : call.inputs) {
    v1::Tensor& out = (*request.mutable_inputs())[name];
    Announce(tensor, out);
    out.set_data(std::move(tensor.bytes));
  }
  return request;
}

absl::StatusOr<Result> FromResponse(v1::EvaluateResponse& response) {
  Result result;
  for (auto& [name, message] : *response.mutable_outputs()) {
    auto bytes = AnnouncedBytes(name, message);
    if (!bytes.ok()) return bytes.status();
    if (static_cast<int64_t>(message.data().size()) != *bytes) {
      return absl::InternalError(absl::StrCat("output ", name, ": came with ",
                                              message.data().size(), " bytes, expected ", *bytes));
    }
    result.outputs[name] = Tensor{message.dtype(),
                                  {message.shape().begin(), message.shape().end()},
                                  std::move(*message.mutable_data())};
  }
  result.kernel = response.kernel();
  result.device = response.device();
  result.batch_size = response.batch_size();
  result.queue = absl::Microseconds(response.timing().queue_us());
  result.compute = absl::Microseconds(response.timing().compute_us());
  result.total = absl::Microseconds(response.timing().total_us());
  return result;
}

ChunkWriter::ChunkWriter(v1::EvaluateRequest request) : header_(std::move(request)) {
  for (auto& [name, tensor] : *header_.mutable_inputs()) {
    inputs_[name] = std::move(*tensor.mutable_data());
    tensor.clear_data();
  }
  tensor_ = inputs_.begin();
}

bool ChunkWriter::Next(v1::EvaluateChunk& chunk) {
  if (!header_out_) {
    header_out_ = true;
    *chunk.mutable_request() = std::move(header_);
    return true;
  }
  while (tensor_ != inputs_.end() && offset_ == tensor_->second.size()) {
    ++tensor_;
    offset_ = 0;
  }
  if (tensor_ == inputs_.end()) return false;
  const auto& [name, bytes] = *tensor_;
  const size_t size = std::min(kChunkBytes, bytes.size() - offset_);
  v1::EvaluateChunk::Data& data = *chunk.mutable_data();
  data.set_tensor(name);
  data.set_offset(offset_);
  data.set_bytes(bytes.data() + offset_, size);
  offset_ += size;
  return true;
}

absl::Status ChunkReader::Take(v1::EvaluateChunk& chunk) {
  if (chunk.has_response() && !header_seen_) {
    header_seen_ = true;
    response_ = std::move(*chunk.mutable_response());
    for (auto& [name, tensor] : *response_.mutable_outputs()) {
      auto bytes = AnnouncedBytes(name, tensor);
      if (!bytes.ok()) return bytes.status();
      expected_[name] = *bytes;
      tensor.clear_data();
    }
    return absl::OkStatus();
  }
  if (!chunk.has_data() || !header_seen_) {
    return absl::InternalError("a streamed answer held a message that does not belong there");
  }
  const v1::EvaluateChunk::Data& data = chunk.data();
  const auto expected = expected_.find(data.tensor());
  if (expected == expected_.end()) {
    return absl::InternalError(
        absl::StrCat("output ", data.tensor(), ": bytes came for a tensor that was not announced"));
  }
  std::string& bytes = *(*response_.mutable_outputs())[data.tensor()].mutable_data();
  if (data.offset() != bytes.size() ||
      data.bytes().size() > static_cast<size_t>(expected->second) - bytes.size()) {
    return absl::InternalError(absl::StrCat("output ", data.tensor(), ": ", data.bytes().size(),
                                            " bytes at ", data.offset(), " came out of place: at ",
                                            bytes.size(), " of ", expected->second));
  }
  // Grows with what has come, not with what was announced.
  bytes.append(data.bytes());
  return absl::OkStatus();
}

absl::StatusOr<Result> ChunkReader::Finish() {
  if (!header_seen_) return absl::InternalError("the stream ended without an answer");
  return FromResponse(response_);
}

}  // namespace attnd::client
