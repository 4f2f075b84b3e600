#include "service/rpc/wire.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>

#include <algorithm>
#include <utility>

#include "attnd/v1/operators.pb.h"

namespace attnd {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedOutputStream;

// Below this a copy is cheaper than a slice of its own.
constexpr size_t kCopyBelow = 4096;

// A slice on a tensor's memory that keeps the memory alive.
grpc::Slice SliceOf(const Tensor& tensor, size_t offset, size_t length) {
  using Owner = std::shared_ptr<const void>;
  auto owner = std::make_unique<Owner>(tensor.owner());
  return grpc::Slice(
      tensor.data<char>() + offset, length,
      [](void* p) { std::unique_ptr<Owner> released(static_cast<Owner*>(p)); }, owner.release());
}

// Reads bytes that lie in several slices.
class Cursor {
 public:
  explicit Cursor(const std::vector<grpc::Slice>& slices) : slices_(slices) { Skip(); }

  bool AtEnd() const { return index_ == slices_.size(); }
  uint64_t position() const { return position_; }

  bool ReadVarint(uint64_t& value) {
    value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (AtEnd()) return false;
      const uint8_t byte = slices_[index_].begin()[at_];
      Advance(1);
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if ((byte & 0x80) == 0) return true;
    }
    return false;
  }

  // Views on the next `length` bytes.
  bool ReadPieces(uint64_t length, std::vector<absl::string_view>& pieces) {
    pieces.clear();
    while (length > 0) {
      if (AtEnd()) return false;
      const grpc::Slice& slice = slices_[index_];
      const size_t n = std::min<uint64_t>(length, slice.size() - at_);
      pieces.emplace_back(reinterpret_cast<const char*>(slice.begin()) + at_, n);
      Advance(n);
      length -= n;
    }
    return true;
  }

 private:
  void Advance(size_t n) {
    at_ += n;
    position_ += n;
    Skip();
  }
  void Skip() {
    while (index_ < slices_.size() && at_ == slices_[index_].size()) {
      ++index_;
      at_ = 0;
    }
  }

  const std::vector<grpc::Slice>& slices_;
  size_t index_ = 0;
  size_t at_ = 0;
  uint64_t position_ = 0;
};

constexpr uint64_t Tag(int field, WireFormatLite::WireType type) {
  return static_cast<uint64_t>(field) << 3 | type;
}

size_t TotalSize(const std::vector<absl::string_view>& pieces) {
  size_t size = 0;
  for (absl::string_view piece : pieces) size += piece.size();
  return size;
}

}  // namespace

void MessageBuilder::Append(const google::protobuf::MessageLite& part) {
  const size_t before = tail_.size();
  part.AppendPartialToString(&tail_);
  size_ += tail_.size() - before;
}

void MessageBuilder::AppendHeader(int field, size_t length) {
  uint8_t bytes[20];
  uint8_t* end = CodedOutputStream::WriteVarint64ToArray(
      Tag(field, WireFormatLite::WIRETYPE_LENGTH_DELIMITED), bytes);
  end = CodedOutputStream::WriteVarint64ToArray(length, end);
  tail_.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(end - bytes));
  size_ += static_cast<size_t>(end - bytes);
}

void MessageBuilder::AppendString(int field, absl::string_view text) {
  AppendHeader(field, text.size());
  tail_.append(text.data(), text.size());
  size_ += text.size();
}

void MessageBuilder::AppendTensor(int field, const Tensor& tensor, size_t offset, size_t length) {
  AppendHeader(field, length);
  size_ += length;
  if (length < kCopyBelow || tensor.owner() == nullptr) {
    tail_.append(tensor.data<char>() + offset, length);
    return;
  }
  Flush();
  slices_.push_back(SliceOf(tensor, offset, length));
}

void MessageBuilder::AppendMessage(int field, MessageBuilder part) {
  AppendHeader(field, part.size_);
  size_ += part.size_;
  if (part.slices_.empty()) {
    tail_.append(part.tail_);
    return;
  }
  Flush();
  std::move(part.slices_.begin(), part.slices_.end(), std::back_inserter(slices_));
  tail_ = std::move(part.tail_);
}

void MessageBuilder::Flush() {
  if (tail_.empty()) return;
  slices_.emplace_back(tail_);
  tail_.clear();
}

grpc::ByteBuffer MessageBuilder::Build() {
  Flush();
  grpc::ByteBuffer buffer(slices_.data(), slices_.size());
  slices_.clear();
  size_ = 0;
  return buffer;
}

bool ReadTensorChunk(const grpc::ByteBuffer& buffer, TensorChunk& chunk) {
  if (!buffer.Dump(&chunk.memory).ok()) return false;
  Cursor in(chunk.memory);
  uint64_t tag, length;
  if (!in.ReadVarint(tag) ||
      tag != Tag(v1::EvaluateChunk::kDataFieldNumber, WireFormatLite::WIRETYPE_LENGTH_DELIMITED) ||
      !in.ReadVarint(length)) {
    return false;
  }
  const uint64_t rest = buffer.Length() - in.position();
  if (length != rest) return false;
  using Data = v1::EvaluateChunk::Data;
  std::vector<absl::string_view> name;
  while (!in.AtEnd()) {
    if (!in.ReadVarint(tag)) return false;
    switch (tag) {
      case Tag(Data::kTensorFieldNumber, WireFormatLite::WIRETYPE_LENGTH_DELIMITED):
        if (!in.ReadVarint(length) || !in.ReadPieces(length, name)) return false;
        chunk.tensor.clear();
        for (absl::string_view piece : name) chunk.tensor.append(piece.data(), piece.size());
        break;
      case Tag(Data::kOffsetFieldNumber, WireFormatLite::WIRETYPE_VARINT):
        if (!in.ReadVarint(chunk.offset)) return false;
        break;
      case Tag(Data::kBytesFieldNumber, WireFormatLite::WIRETYPE_LENGTH_DELIMITED):
        if (!in.ReadVarint(length) || !in.ReadPieces(length, chunk.pieces)) return false;
        chunk.size = TotalSize(chunk.pieces);
        break;
      default:
        return false;
    }
  }
  return true;
}

}  // namespace attnd
