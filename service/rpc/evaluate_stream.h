// One streamed evaluation: receives a call in chunks, runs it, sends the answer in chunks.
#ifndef ATTND_SERVICE_RPC_EVALUATE_STREAM_H_
#define ATTND_SERVICE_RPC_EVALUATE_STREAM_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "kernels/core/attributes.h"
#include "service/byte_budget.h"
#include "service/engine.h"
#include "service/rpc/codec.h"
#include "service/rpc/services.h"
#include "service/rpc/wire.h"

namespace attnd {

// Phases follow one another and only one operation is out at a time, so nothing here needs a lock:
// header, data, evaluation, answer. The bytes of a tensor come in order and without gaps; those of
// several tensors may alternate.
class EvaluateStream final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  // The reactor to hand to gRPC. It owns itself until gRPC is done with it.
  static EvaluateStream* Start(Engine& engine, const RpcLimits& limits, ByteBudget& budget,
                               grpc::CallbackServerContext& context);
  EvaluateStream(Engine& engine, const RpcLimits& limits, ByteBudget& budget,
                 grpc::CallbackServerContext& context);
  ~EvaluateStream() override { budget_.Return(reserved_); }

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override { cancel_->Cancel(); }
  void OnDone() override;

 private:
  absl::Status Receive();
  absl::Status ReceiveHeader(const v1::EvaluateRequest& header);
  absl::Status ReceiveData(const TensorChunk& chunk);
  absl::Status CheckComplete();
  void Evaluate();
  void SendHeader(absl::StatusOr<EngineResult> result);
  void SendNextChunk();
  // Ends a call that the engine will not see.
  void Refuse(const absl::Status& status);
  void End(const absl::Status& status);

  Engine& engine_;
  const RpcLimits& limits_;
  ByteBudget& budget_;
  const absl::Time deadline_;
  const absl::Time begin_;
  const std::shared_ptr<CancelToken> cancel_ = std::make_shared<CancelToken>();
  std::shared_ptr<EvaluateStream> self_;

  grpc::ByteBuffer in_;
  std::optional<DecodedCall> call_;
  Named<int64_t> received_;  // Bytes of each input.
  int64_t reserved_ = 0;     // From the budget.
  bool no_room_ = false;     // In the budget.
  absl::Status refusal_;     // Of a call that the engine has not seen.

  grpc::ByteBuffer out_;
  NamedTensors outputs_;
  size_t output_ = 0;   // Being sent.
  int64_t offset_ = 0;  // In it.
};

}  // namespace attnd

#endif  // ATTND_SERVICE_RPC_EVALUATE_STREAM_H_
