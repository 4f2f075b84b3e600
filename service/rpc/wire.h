// Messages as bytes: parsing into shared ownership, and building answers whose tensors are not
// copied.
#ifndef ATTND_SERVICE_RPC_WIRE_H_
#define ATTND_SERVICE_RPC_WIRE_H_

#include <google/protobuf/arena.h>
#include <google/protobuf/message_lite.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "kernels/core/tensor.h"

namespace attnd {

// A message that lives as long as anything refers to it: the owner of the tensors that are views on
// it. Empties `buffer`. INVALID_ARGUMENT if the bytes are no such message.
template <typename Message>
absl::StatusOr<std::shared_ptr<const Message>> ParseMessage(grpc::ByteBuffer& buffer) {
  struct Holder {
    google::protobuf::Arena arena;
    Message* message = google::protobuf::Arena::CreateMessage<Message>(&arena);
  };
  auto holder = std::make_shared<Holder>();
  grpc::ProtoBufferReader reader(&buffer);
  // A buffer that was never filled is an empty message.
  const bool parsed = !buffer.Valid() ||
                      (reader.status().ok() && holder->message->ParseFromZeroCopyStream(&reader));
  const absl::string_view name = Message::descriptor()->full_name();
  if (!parsed) {
    return absl::InvalidArgumentError(absl::StrCat(
        "given ", buffer.Length(), " bytes that do not parse, expected a message ", name));
  }
  buffer.Clear();
  return std::shared_ptr<const Message>(holder, holder->message);
}

// Most that a message grows by as the only field of another, which is how streams carry answers.
inline constexpr size_t kEnvelopeBytes = 6;

// Builds the bytes of one message, field by field in any order (protobuf merges what is appended).
class MessageBuilder {
 public:
  // The fields that are set in `part`.
  void Append(const google::protobuf::MessageLite& part);
  void AppendString(int field, absl::string_view text);
  // A field that holds the elements of a contiguous tensor. Large tensors are referred to, not
  // copied, and live until the bytes are sent.
  void AppendTensor(int field, const Tensor& tensor) {
    AppendTensor(field, tensor, 0, static_cast<size_t>(tensor.byte_size()));
  }
  // `length` bytes of it from `offset`.
  void AppendTensor(int field, const Tensor& tensor, size_t offset, size_t length);
  // A field that is itself a message.
  void AppendMessage(int field, MessageBuilder part);

  size_t size() const { return size_; }
  // Leaves the builder empty.
  grpc::ByteBuffer Build();

 private:
  void AppendHeader(int field, size_t length);
  void Flush();

  std::vector<grpc::Slice> slices_;
  std::string tail_;  // Bytes after the last slice.
  size_t size_ = 0;
};

// A run of bytes of a tensor, as it lies in the message that brought it.
struct TensorChunk {
  std::string tensor;
  uint64_t offset = 0;
  std::vector<absl::string_view> pieces;
  size_t size = 0;                  // Of the pieces together.
  std::vector<grpc::Slice> memory;  // What the pieces lie in.
};

// Reads an attnd.v1.EvaluateChunk that holds `data` and is written as serialisers write it. False
// if `buffer` is anything else; parse it as a message then.
bool ReadTensorChunk(const grpc::ByteBuffer& buffer, TensorChunk& chunk);

}  // namespace attnd

#endif  // ATTND_SERVICE_RPC_WIRE_H_
