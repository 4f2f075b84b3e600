#include "service/rpc/evaluate_stream.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "service/rpc/call_parts.h"
#include "service/rpc/grpc_status.h"
#include "service/rpc/wire_tensor.h"

namespace attnd {

EvaluateStream* EvaluateStream::Start(Engine& engine, const RpcLimits& limits, ByteBudget& budget,
                                      grpc::CallbackServerContext& context) {
  auto stream = std::make_shared<EvaluateStream>(engine, limits, budget, context);
  stream->self_ = stream;
  stream->StartRead(&stream->in_);
  return stream.get();
}

EvaluateStream::EvaluateStream(Engine& engine, const RpcLimits& limits, ByteBudget& budget,
                               grpc::CallbackServerContext& context)
    : engine_(engine),
      limits_(limits),
      budget_(budget),
      deadline_(DeadlineOf(context)),
      begin_(absl::Now()) {}

void EvaluateStream::OnReadDone(bool ok) {
  if (ok) {
    if (absl::Status s = Guarded([this] { return Receive(); }); !s.ok()) return Refuse(s);
    return StartRead(&in_);
  }
  if (cancel_->cancelled()) return Refuse(absl::CancelledError("the client went away"));
  if (absl::Status s = Guarded([this] { return CheckComplete(); }); !s.ok()) return Refuse(s);
  Evaluate();
}

absl::Status EvaluateStream::Receive() {
  TensorChunk chunk;
  if (call_ && ReadTensorChunk(in_, chunk)) {
    in_.Clear();
    return ReceiveData(chunk);
  }
  const absl::StatusOr<std::shared_ptr<const v1::EvaluateChunk>> parsed =
      ParseMessage<v1::EvaluateChunk>(in_);
  if (!parsed.ok()) return parsed.status();
  const v1::EvaluateChunk& message = **parsed;
  if (!call_) {
    if (message.has_request()) return ReceiveHeader(message.request());
    return absl::InvalidArgumentError(
        "EvaluateStream: given a first chunk without `request`, expected the header of the call");
  }
  if (!message.has_data()) {
    return Refusal(call_->op->spec.id(), "chunk", "a second header or nothing", "`data`");
  }
  chunk.tensor = message.data().tensor();
  chunk.offset = message.data().offset();
  chunk.size = message.data().bytes().size();
  chunk.pieces = {message.data().bytes()};
  return ReceiveData(chunk);
}

absl::Status EvaluateStream::ReceiveHeader(const v1::EvaluateRequest& header) {
  const absl::StatusOr<int64_t> bytes =
      AnnouncedBytes(header, limits_.max_tensor_bytes, limits_.max_call_bytes);
  if (!bytes.ok()) return bytes.status();
  if (!budget_.Take(*bytes)) {
    no_room_ = true;
    return absl::ResourceExhaustedError(
        absl::StrCat(header.op(), ": inputs: given ", *bytes,
                     " bytes, but streamed calls under way hold the rest of ",
                     limits_.max_buffer_bytes, ": repeat the call later"));
  }
  reserved_ = *bytes;
  absl::StatusOr<DecodedCall> call = DecodeHeader(engine_.registry(), header);
  if (!call.ok()) return call.status();
  call_ = *std::move(call);
  for (const auto& [name, tensor] : call_->call.request.inputs) received_.Set(name, 0);
  return absl::OkStatus();
}

absl::Status EvaluateStream::ReceiveData(const TensorChunk& chunk) {
  const std::string& op = call_->op->spec.id();
  const Tensor* tensor = call_->call.request.inputs.Find(chunk.tensor);
  if (tensor == nullptr) {
    return Refusal(op, Quoted(chunk.tensor), "in a chunk", "a tensor of the header");
  }
  int64_t& received = *received_.Find(chunk.tensor);
  if (chunk.offset != static_cast<uint64_t>(received)) {
    return Refusal(op, chunk.tensor, absl::StrCat("a chunk at offset ", chunk.offset),
                   absl::StrCat("offset ", received));
  }
  const int64_t left = tensor->byte_size() - received;
  if (chunk.size > static_cast<uint64_t>(left)) {
    return Refusal(op, chunk.tensor, absl::StrCat(chunk.size, " bytes at offset ", received),
                   absl::StrCat("at most ", left, " of ", tensor->DebugString()));
  }
  for (absl::string_view piece : chunk.pieces) {
    std::memcpy(tensor->data<char>() + received, piece.data(), piece.size());
    received += static_cast<int64_t>(piece.size());
  }
  return absl::OkStatus();
}

absl::Status EvaluateStream::CheckComplete() {
  if (!call_) {
    return absl::InvalidArgumentError(
        "EvaluateStream: given no chunk, expected the header of a call");
  }
  const std::string& op = call_->op->spec.id();
  for (const auto& [name, tensor] : call_->call.request.inputs) {
    if (const int64_t received = *received_.Find(name); received != tensor.byte_size()) {
      return Refusal(op, name, absl::StrCat(received, " bytes before the end of the stream"),
                     absl::StrCat(tensor.byte_size(), " for ", tensor.DebugString()));
    }
    if (absl::Status s = CheckBools(op, name, tensor); !s.ok()) return s;
  }
  return CheckWanted(*call_->op, call_->call.request, call_->wanted);
}

void EvaluateStream::Evaluate() {
  EngineCall call = std::move(call_->call);
  call.deadline = deadline_;
  call.cancel = cancel_;
  engine_.Evaluate(std::move(call), [self = self_](absl::StatusOr<EngineResult> result) {
    const absl::Status sent = Guarded([&] {
      self->SendHeader(std::move(result));
      return absl::OkStatus();
    });
    if (!sent.ok()) self->End(sent);
  });
}

void EvaluateStream::SendHeader(absl::StatusOr<EngineResult> result) {
  if (!result.ok()) return End(result.status());
  absl::StatusOr<NamedTensors> outputs =
      SelectOutputs(call_->op->spec.id(), result->evaluation, call_->wanted);
  if (!outputs.ok()) return End(outputs.status());
  outputs_ = *std::move(outputs);
  MessageBuilder chunk;
  chunk.AppendMessage(v1::EvaluateChunk::kResponseFieldNumber,
                      EncodeResponse(*result, outputs_, call_->request_id, absl::Now() - begin_,
                                     Payload::kWithoutBytes));
  out_ = chunk.Build();
  StartWrite(&out_);
}

void EvaluateStream::OnWriteDone(bool ok) {
  if (!ok) return End(absl::CancelledError("the client went away"));
  const absl::Status sent = Guarded([this] {
    SendNextChunk();
    return absl::OkStatus();
  });
  if (!sent.ok()) End(sent);
}

void EvaluateStream::SendNextChunk() {
  auto output = outputs_.begin() + static_cast<ptrdiff_t>(output_);
  while (output != outputs_.end() && offset_ == output->second.byte_size()) {
    ++output;
    ++output_;
    offset_ = 0;
  }
  if (output == outputs_.end()) return End(absl::OkStatus());
  const auto& [name, tensor] = *output;
  const int64_t length = std::min(limits_.chunk_bytes, tensor.byte_size() - offset_);
  using Data = v1::EvaluateChunk::Data;
  Data header;
  header.set_tensor(name);
  header.set_offset(static_cast<uint64_t>(offset_));
  MessageBuilder data;
  data.Append(header);
  data.AppendTensor(Data::kBytesFieldNumber, tensor, static_cast<size_t>(offset_),
                    static_cast<size_t>(length));
  MessageBuilder chunk;
  chunk.AppendMessage(v1::EvaluateChunk::kDataFieldNumber, std::move(data));
  offset_ += length;
  out_ = chunk.Build();
  StartWrite(&out_);
}

void EvaluateStream::Refuse(const absl::Status& status) {
  refusal_ = status;
  End(status);
}

// Only now: the end of a client that left may come before the news that it did.
void EvaluateStream::OnDone() {
  if (cancel_->cancelled() && !refusal_.ok()) {
    engine_.NoteDropped(LeftForDeadline(absl::Now(), deadline_) ? Engine::Dropped::kLate
                                                                : Engine::Dropped::kCancelled);
  } else if (no_room_) {
    engine_.NoteDropped(Engine::Dropped::kBufferFull);
  } else if (!refusal_.ok()) {
    NoteRefused(engine_, refusal_);
  }
  const std::shared_ptr<EvaluateStream> last = std::move(self_);
}

void EvaluateStream::End(const absl::Status& status) { Finish(ToGrpcStatus(status)); }

}  // namespace attnd
