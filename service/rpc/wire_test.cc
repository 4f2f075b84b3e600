#include "service/rpc/wire.h"

#include <gtest/gtest.h>

#include <memory>
#include <numeric>

#include "attnd/v1/operators.pb.h"
#include "service/overload.h"
#include "service/rpc/grpc_status.h"
#include "service/rpc/wire_tensor.h"

namespace attnd {
namespace {

std::string Bytes(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(buffer.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

// The bytes cut into slices of `size`.
grpc::ByteBuffer Cut(const std::string& bytes, size_t size) {
  std::vector<grpc::Slice> slices;
  for (size_t at = 0; at < bytes.size(); at += size) slices.emplace_back(bytes.substr(at, size));
  return grpc::ByteBuffer(slices.data(), slices.size());
}

Tensor Counting(int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  std::iota(values.begin(), values.end(), 0.0f);
  return HostTensor<float>({count}, values);
}

TEST(MessageBuilderTest, BuildsWhatProtobufBuilds) {
  for (int64_t count : {0, 1, 1023, 1024, 100000}) {
    const Tensor tensor = Counting(count);
    v1::EvaluateChunk expected;
    expected.mutable_data()->set_tensor("q");
    expected.mutable_data()->set_offset(3);
    expected.mutable_data()->set_bytes(tensor.data<char>(),
                                       static_cast<size_t>(tensor.byte_size()));
    v1::EvaluateChunk::Data header;
    header.set_offset(3);
    MessageBuilder data;
    data.AppendString(v1::EvaluateChunk::Data::kTensorFieldNumber, "q");
    data.Append(header);
    data.AppendTensor(v1::EvaluateChunk::Data::kBytesFieldNumber, tensor);
    MessageBuilder chunk;
    chunk.AppendMessage(v1::EvaluateChunk::kDataFieldNumber, std::move(data));
    const size_t size = chunk.size();
    const std::string bytes = Bytes(chunk.Build());
    EXPECT_EQ(bytes.size(), size);
    v1::EvaluateChunk parsed;
    ASSERT_TRUE(parsed.ParseFromString(bytes));
    EXPECT_EQ(parsed.SerializeAsString(), expected.SerializeAsString());
  }
}

TEST(MessageBuilderTest, KeepsLargeTensorsAliveUntilSent) {
  auto owner = std::make_shared<std::vector<float>>(10000, 1.0f);
  const std::weak_ptr<std::vector<float>> alive = owner;
  grpc::ByteBuffer buffer;
  {
    MessageBuilder builder;
    builder.AppendTensor(1, Tensor(owner->data(), DType::kFloat32, {10000}, Device::kCpu, owner));
    owner.reset();
    buffer = builder.Build();
  }
  EXPECT_FALSE(alive.expired());
  buffer.Clear();
  EXPECT_TRUE(alive.expired());
}

TEST(ReadTensorChunkTest, AgreesWithProtobufHoweverTheBytesLie) {
  v1::EvaluateChunk chunk;
  chunk.mutable_data()->set_tensor("initial_state");
  chunk.mutable_data()->set_offset(1u << 30);
  chunk.mutable_data()->set_bytes(std::string(1000, 'x') + "y");
  const std::string bytes = chunk.SerializeAsString();
  for (size_t cut : {size_t{1}, size_t{2}, size_t{7}, size_t{500}, bytes.size()}) {
    TensorChunk read;
    ASSERT_TRUE(ReadTensorChunk(Cut(bytes, cut), read));
    EXPECT_EQ(read.tensor, "initial_state");
    EXPECT_EQ(read.offset, 1u << 30);
    EXPECT_EQ(read.size, 1001u);
    std::string joined;
    for (absl::string_view piece : read.pieces) joined.append(piece.data(), piece.size());
    EXPECT_EQ(joined, chunk.data().bytes());
  }
  // Cut short, it is nothing.
  for (size_t size = 0; size < bytes.size(); ++size) {
    TensorChunk read;
    EXPECT_FALSE(ReadTensorChunk(Cut(bytes.substr(0, size), 3), read)) << size;
  }
  TensorChunk read;
  EXPECT_FALSE(ReadTensorChunk(Cut(bytes + '\0', 5), read));
}

TEST(ReadTensorChunkTest, LeavesOtherMessagesToProtobuf) {
  TensorChunk read;
  v1::EvaluateChunk header;
  header.mutable_request()->set_op("gla");
  EXPECT_FALSE(ReadTensorChunk(Cut(header.SerializeAsString(), 4), read));
  EXPECT_FALSE(ReadTensorChunk(grpc::ByteBuffer(), read));
  // A length beyond 2^64, a varint that never ends.
  EXPECT_FALSE(ReadTensorChunk(Cut("\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 4), read));
}

TEST(ParseMessageTest, RefusesWhatDoesNotParse) {
  grpc::ByteBuffer bad = Cut("\xff\xff\xff\xff", 4);
  const absl::Status status = ParseMessage<v1::EvaluateRequest>(bad).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_NE(status.message().find("attnd.v1.EvaluateRequest"), absl::string_view::npos) << status;
  grpc::ByteBuffer none;
  EXPECT_TRUE(ParseMessage<v1::EvaluateRequest>(none).ok());
}

TEST(ViewTensorTest, ViewsWithoutCopying) {
  const std::string bytes(24, 'x');
  const absl::StatusOr<Tensor> tensor =
      ViewTensor("op", "q", DType::kFloat32, {2, 3}, bytes, nullptr);
  ASSERT_TRUE(tensor.ok());
  EXPECT_EQ(tensor->raw(), bytes.data());
}

TEST(WireMessageTest, CutsBetweenCharacters) {
  std::string text;
  for (int i = 0; i < 3000; ++i) text += "é";
  const std::string message = WireMessage(absl::InternalError("x" + text));
  EXPECT_LT(message.size(), 2100u);
  v1::CallError error;
  error.set_message(message);
  v1::CallError parsed;
  EXPECT_TRUE(parsed.ParseFromString(error.SerializeAsString()));  // Valid UTF-8.
}

TEST(GrpcStatusTest, StandardHidesOverload) {
  const absl::Status overload = OverloadError("full");
  EXPECT_EQ(ToGrpcStatus(overload).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(ToInferenceStatus(overload).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ToInferenceStatus(absl::ResourceExhaustedError("too large")).error_code(),
            grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(ToInferenceStatus(absl::DeadlineExceededError("")).error_code(),
            grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(ToInferenceStatus(absl::NotFoundError("")).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_TRUE(ToInferenceStatus(absl::OkStatus()).ok());
}

}  // namespace
}  // namespace attnd
