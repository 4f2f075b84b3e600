// Arbitrary bytes as an inference.ModelInferRequest, through decoding and binding.
#include "kernels/core/evaluate.h"
#include "service/rpc/infer_codec.h"
#include "tests/fuzz/fuzz_registry.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace attnd;  // NOLINT
  grpc::ByteBuffer buffer = FuzzBuffer(data, size);
  const auto message = ParseMessage<inference::ModelInferRequest>(buffer);
  if (!message.ok()) return 0;
  const absl::StatusOr<InferCall> call = DecodeInfer(FuzzRegistry(), *message);
  if (call.ok()) {
    const absl::StatusOr<BoundCall> bound = BindAndCheck(*call->op, call->call.request);
    (void)bound;
  }
  return 0;
}
