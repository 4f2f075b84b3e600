// attnd.v1.Operators: translate and delegate.
#include <memory>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "attnd/v1/operators.grpc.pb.h"
#include "kernels/core/random_call.h"
#include "service/rpc/call_parts.h"
#include "service/rpc/call_stream.h"
#include "service/rpc/codec.h"
#include "service/rpc/describe.h"
#include "service/rpc/evaluate_stream.h"
#include "service/rpc/grpc_status.h"
#include "service/rpc/services.h"
#include "service/rpc/wire_tensor.h"

namespace attnd {
namespace {

using grpc::ByteBuffer;
using grpc::CallbackServerContext;
using Stub = v1::Operators;
// The methods declared raw are those of TakesBytes.
using Base = Stub::WithCallbackMethod_List<
    Stub::WithCallbackMethod_Describe<Stub::WithRawCallbackMethod_Evaluate<
        Stub::WithRawCallbackMethod_EvaluateStream<Stub::WithRawCallbackMethod_EvaluateBatch<
            Stub::WithRawCallbackMethod_Compare<Stub::Service>>>>>>;

class OperatorsService final : public Base {
 public:
  OperatorsService(Engine& engine, const RpcLimits& limits)
      : engine_(engine), limits_(limits), budget_(limits.max_buffer_bytes) {}

  grpc::ServerUnaryReactor* List(CallbackServerContext* context, const v1::ListRequest* request,
                                 v1::ListResponse* response) override;
  grpc::ServerUnaryReactor* Describe(CallbackServerContext* context,
                                     const v1::DescribeRequest* request,
                                     v1::OperatorDescription* response) override;
  grpc::ServerUnaryReactor* Evaluate(CallbackServerContext* context, const ByteBuffer* request,
                                     ByteBuffer* response) override;
  grpc::ServerBidiReactor<ByteBuffer, ByteBuffer>* EvaluateStream(
      CallbackServerContext* context) override {
    return attnd::EvaluateStream::Start(engine_, limits_, budget_, *context);
  }
  grpc::ServerBidiReactor<ByteBuffer, ByteBuffer>* EvaluateBatch(
      CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* Compare(CallbackServerContext* context, const ByteBuffer* request,
                                    ByteBuffer* response) override;

 private:
  // One call, from bytes to an EvaluateResponse.
  using Answered = absl::AnyInvocable<void(absl::StatusOr<MessageBuilder>)>;
  void Run(std::shared_ptr<const v1::EvaluateRequest> message, absl::Time deadline,
           const std::shared_ptr<CancelToken>& cancel, Answered answered);
  void RunInBatch(ByteBuffer& bytes, absl::Time deadline,
                  const std::shared_ptr<CancelToken>& cancel, CallStream::Reply reply);

  Engine& engine_;
  const RpcLimits limits_;
  ByteBudget budget_;
};

grpc::ServerUnaryReactor* Answer(CallbackServerContext& context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context.DefaultReactor();
  reactor->Finish(ToGrpcStatus(status));
  return reactor;
}

grpc::ServerUnaryReactor* OperatorsService::List(CallbackServerContext* context,
                                                 const v1::ListRequest* request,
                                                 v1::ListResponse* response) {
  for (const Operator* op : engine_.registry().operators()) {
    const std::string& id = op->spec.id();
    if (!absl::StrContains(id, request->filter())) continue;
    *response->add_operators() = Summarise(op->spec, engine_.KernelsOf(id));
  }
  return Answer(*context, absl::OkStatus());
}

grpc::ServerUnaryReactor* OperatorsService::Describe(CallbackServerContext* context,
                                                     const v1::DescribeRequest* request,
                                                     v1::OperatorDescription* response) {
  if (absl::Status s = CheckName("call", "op", request->op()); !s.ok()) return Answer(*context, s);
  const absl::StatusOr<const Operator*> op = engine_.registry().Find(request->op());
  if (op.ok()) *response = attnd::Describe((*op)->spec, engine_.KernelsOf(request->op()));
  return Answer(*context, op.status());
}

void OperatorsService::Run(std::shared_ptr<const v1::EvaluateRequest> message, absl::Time deadline,
                           const std::shared_ptr<CancelToken>& cancel, Answered answered) {
  const absl::Time begin = absl::Now();
  absl::StatusOr<DecodedCall> decoded =
      Guarded([&] { return DecodeCall(engine_.registry(), message); });
  if (!decoded.ok()) {
    NoteRefused(engine_, decoded.status());
    return answered(decoded.status());
  }
  EngineCall call = std::move(decoded->call);
  call.deadline = deadline;
  call.cancel = cancel;
  engine_.Evaluate(
      std::move(call),
      [answered = std::move(answered), wanted = std::move(decoded->wanted),
       request_id = std::move(decoded->request_id), op = decoded->op, begin,
       limit = limits_.max_message_bytes](absl::StatusOr<EngineResult> result) mutable {
        if (!result.ok()) return answered(result.status());
        answered(Guarded([&]() -> absl::StatusOr<MessageBuilder> {
          const absl::StatusOr<NamedTensors> outputs =
              SelectOutputs(op->spec.id(), result->evaluation, wanted);
          if (!outputs.ok()) return outputs.status();
          MessageBuilder answer = EncodeResponse(*result, *outputs, request_id, absl::Now() - begin,
                                                 Payload::kWithBytes);
          const size_t size = answer.size() + kEnvelopeBytes;
          if (static_cast<int64_t>(size) <= limit) return answer;
          return AnswerTooLarge(op->spec.id(), size, limit);
        }));
      });
}

grpc::ServerUnaryReactor* OperatorsService::Evaluate(CallbackServerContext* context,
                                                     const ByteBuffer* request,
                                                     ByteBuffer* response) {
  ByteBuffer bytes(*request);
  auto message = Guarded([&] { return ParseMessage<v1::EvaluateRequest>(bytes); });
  if (!message.ok()) {
    NoteRefused(engine_, message.status());
    return Answer(*context, message.status());
  }
  const std::shared_ptr<UnaryCall> call = UnaryCall::Start();
  Run(*std::move(message), DeadlineOf(*context), call->cancel(),
      [call, context, response](absl::StatusOr<MessageBuilder> answer) {
        if (answer.ok()) *response = answer->Build();
        const std::string reason = ReasonOf(answer.status());
        if (!reason.empty()) context->AddTrailingMetadata("attnd-reason", reason);
        call->Finish(ToGrpcStatus(answer.status()));
      });
  return call.get();
}

void OperatorsService::RunInBatch(ByteBuffer& bytes, absl::Time deadline,
                                  const std::shared_ptr<CancelToken>& cancel,
                                  CallStream::Reply reply) {
  auto message = Guarded([&] { return ParseMessage<v1::EvaluateRequest>(bytes); });
  const std::string request_id = message.ok() ? (*message)->request_id() : "";
  auto answered = [reply = std::move(reply),
                   request_id](absl::StatusOr<MessageBuilder> answer) mutable {
    MessageBuilder response;
    if (answer.ok()) {
      response.AppendMessage(v1::BatchResponse::kResponseFieldNumber, *std::move(answer));
    } else {
      v1::BatchResponse error;
      *error.mutable_error() = EncodeError(request_id, answer.status());
      response.Append(error);
    }
    reply({response.Build(), grpc::Status::OK});
  };
  if (!message.ok()) {
    NoteRefused(engine_, message.status());
    return answered(message.status());
  }
  Run(*std::move(message), deadline, cancel, std::move(answered));
}

grpc::ServerBidiReactor<ByteBuffer, ByteBuffer>* OperatorsService::EvaluateBatch(
    CallbackServerContext* context) {
  return CallStream::Start(
      CallStream::Order::kAsReady, limits_.max_calls_per_stream,
      [this, deadline = DeadlineOf(*context)](
          ByteBuffer& request, const std::shared_ptr<CancelToken>& cancel,
          CallStream::Reply reply) { RunInBatch(request, deadline, cancel, std::move(reply)); });
}

grpc::ServerUnaryReactor* OperatorsService::Compare(CallbackServerContext* context,
                                                    const ByteBuffer* request,
                                                    ByteBuffer* response) {
  struct Decoded {
    DecodedCall call;
    std::optional<RandomCompare> random;
  };
  ByteBuffer bytes(*request);
  absl::StatusOr<Decoded> decoded = Guarded([&]() -> absl::StatusOr<Decoded> {
    const auto message = ParseMessage<v1::CompareRequest>(bytes);
    if (!message.ok()) return message.status();
    if ((*message)->call().outputs_size() > 0) {
      return Refusal((*message)->call().op(), "outputs", "in Compare",
                     "none: every output is compared");
    }
    auto call = DecodeCall(engine_.registry(), std::shared_ptr<const v1::EvaluateRequest>(
                                                   *message, &(*message)->call()));
    if (!call.ok()) return call.status();
    auto random =
        DecodeRandom(**message, limits_.max_call_bytes / static_cast<int64_t>(sizeof(float)));
    if (!random.ok()) return random.status();
    if (random->has_value()) {
      RandomOptions options;
      options.dims = (*random)->dims;
      if (absl::Status s = CheckRandomOptions(call->op->spec, options); !s.ok()) return s;
    }
    return Decoded{*std::move(call), *std::move(random)};
  });
  if (!decoded.ok()) {
    NoteRefused(engine_, decoded.status());
    return Answer(*context, decoded.status());
  }
  const std::shared_ptr<UnaryCall> call = UnaryCall::Start();
  EngineCall engine_call = std::move(decoded->call.call);
  engine_call.deadline = DeadlineOf(*context);
  engine_call.cancel = call->cancel();
  engine_.Compare(std::move(engine_call), decoded->random ? &*decoded->random : nullptr,
                  [call, response](absl::StatusOr<NumericsReport> report) {
                    if (report.ok()) {
                      MessageBuilder message;
                      message.Append(ToWire(*report));
                      *response = message.Build();
                    }
                    call->Finish(ToGrpcStatus(report.status()));
                  });
  return call.get();
}

}  // namespace

bool TakesBytes(absl::string_view method) {
  static const absl::flat_hash_set<absl::string_view> kRaw = {
      "attnd.v1.Operators/Evaluate",
      "attnd.v1.Operators/EvaluateStream",
      "attnd.v1.Operators/EvaluateBatch",
      "attnd.v1.Operators/Compare",
      "inference.GRPCInferenceService/ModelInfer",
      "inference.GRPCInferenceService/ModelStreamInfer",
  };
  return kRaw.contains(method);
}

std::unique_ptr<grpc::Service> MakeOperatorsService(Engine& engine, const RpcLimits& limits) {
  return std::make_unique<OperatorsService>(engine, limits);
}

}  // namespace attnd
