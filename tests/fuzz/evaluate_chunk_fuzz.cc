// The quick reader of stream chunks against protobuf: what both read must be the same.
#include <cstdlib>
#include <string>
#include <vector>

#include "attnd/v1/operators.pb.h"
#include "service/rpc/wire.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  // The first byte says how the rest is cut into slices.
  const size_t cut = data[0] % 32 + 1;
  const std::string bytes(reinterpret_cast<const char*>(data + 1), size - 1);
  std::vector<grpc::Slice> slices;
  for (size_t at = 0; at < bytes.size(); at += cut) slices.emplace_back(bytes.substr(at, cut));
  const grpc::ByteBuffer buffer(slices.data(), slices.size());
  attnd::TensorChunk chunk;
  if (!attnd::ReadTensorChunk(buffer, chunk)) return 0;
  std::string joined;
  for (absl::string_view piece : chunk.pieces) joined.append(piece.data(), piece.size());
  if (joined.size() != chunk.size) std::abort();
  attnd::v1::EvaluateChunk message;
  if (!message.ParseFromString(bytes)) return 0;  // Names that are not UTF-8: protobuf minds.
  if (!message.has_data() || message.data().tensor() != chunk.tensor ||
      message.data().offset() != chunk.offset || message.data().bytes() != joined) {
    std::abort();
  }
  return 0;
}
