// Arbitrary bytes as an attnd.v1.EvaluateRequest, through decoding and binding, as one message and
// as the header of a stream.
#include "kernels/core/evaluate.h"
#include "service/rpc/codec.h"
#include "tests/fuzz/fuzz_registry.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace attnd;  // NOLINT
  grpc::ByteBuffer buffer = FuzzBuffer(data, size);
  const auto message = ParseMessage<v1::EvaluateRequest>(buffer);
  if (!message.ok()) return 0;
  const absl::StatusOr<DecodedCall> call = DecodeCall(FuzzRegistry(), *message);
  if (call.ok()) {
    const absl::StatusOr<BoundCall> bound = BindAndCheck(*call->op, call->call.request);
    (void)bound;
  }
  constexpr int64_t kLimit = 1 << 20;
  if (AnnouncedBytes(**message, kLimit, kLimit).ok()) {
    const absl::StatusOr<DecodedCall> header = DecodeHeader(FuzzRegistry(), **message);
    (void)header;
  }
  return 0;
}
