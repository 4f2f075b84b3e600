// inference.GRPCInferenceService: the Open Inference Protocol and the extensions that stock clients
// call. An operator is a model, and a language model is one.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/strings/str_cat.h"
#include "inference/grpc_service.grpc.pb.h"
#include "service/rpc/call_parts.h"
#include "service/rpc/call_stream.h"
#include "service/rpc/grpc_status.h"
#include "service/rpc/infer_codec.h"
#include "service/rpc/language_models.h"
#include "service/rpc/model_description.h"
#include "service/rpc/services.h"
#include "service/rpc/wire_tensor.h"

namespace attnd {
namespace {

using grpc::ByteBuffer;
using grpc::CallbackServerContext;
using Stub = inference::GRPCInferenceService;

// Everything as callbacks; the methods declared raw are those of TakesBytes.
template <typename Service>
using Unimplemented = Stub::WithCallbackMethod_SystemSharedMemoryStatus<
    Stub::WithCallbackMethod_SystemSharedMemoryRegister<
        Stub::WithCallbackMethod_SystemSharedMemoryUnregister<
            Stub::WithCallbackMethod_CudaSharedMemoryStatus<
                Stub::WithCallbackMethod_CudaSharedMemoryRegister<
                    Stub::WithCallbackMethod_CudaSharedMemoryUnregister<
                        Stub::WithCallbackMethod_TraceSetting<
                            Stub::WithCallbackMethod_LogSettings<Service>>>>>>>>;
template <typename Service>
using Repository =
    Stub::WithCallbackMethod_RepositoryIndex<Stub::WithCallbackMethod_RepositoryModelLoad<
        Stub::WithCallbackMethod_RepositoryModelUnload<Service>>>;
template <typename Service>
using Metadata = Stub::WithCallbackMethod_ServerLive<Stub::WithCallbackMethod_ServerReady<
    Stub::WithCallbackMethod_ModelReady<Stub::WithCallbackMethod_ServerMetadata<
        Stub::WithCallbackMethod_ModelMetadata<Stub::WithCallbackMethod_ModelConfig<
            Stub::WithCallbackMethod_ModelStatistics<Service>>>>>>>;
using Base = Metadata<Repository<Unimplemented<Stub::WithRawCallbackMethod_ModelInfer<
    Stub::WithRawCallbackMethod_ModelStreamInfer<Stub::Service>>>>>;

grpc::ServerUnaryReactor* Answer(CallbackServerContext* context, const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(ToInferenceStatus(status));
  return reactor;
}

// Starts a call that ends with the status that `invoke` brings.
template <typename Invoke>
grpc::ServerUnaryReactor* Later(Invoke invoke) {
  const std::shared_ptr<UnaryCall> call = UnaryCall::Start();
  invoke([call](const absl::Status& status) { call->Finish(ToInferenceStatus(status)); });
  return call.get();
}

class InferenceService final : public Base {
 public:
  InferenceService(Engine& engine, SequenceStore& sequences, std::unique_ptr<LanguageModels> models,
                   const RpcLimits& limits, std::string version)
      : engine_(engine),
        sequences_(sequences),
        language_(std::move(models)),
        limits_(limits),
        version_(std::move(version)) {}

  grpc::ServerUnaryReactor* ServerLive(CallbackServerContext* context,
                                       const inference::ServerLiveRequest*,
                                       inference::ServerLiveResponse* response) override {
    response->set_live(true);
    return Answer(context, absl::OkStatus());
  }

  grpc::ServerUnaryReactor* ServerReady(CallbackServerContext* context,
                                        const inference::ServerReadyRequest*,
                                        inference::ServerReadyResponse* response) override {
    response->set_ready(engine_.ready());
    return Answer(context, absl::OkStatus());
  }

  // A model that is not there, or not loaded, is not ready; that is no error.
  grpc::ServerUnaryReactor* ModelReady(CallbackServerContext* context,
                                       const inference::ModelReadyRequest* request,
                                       inference::ModelReadyResponse* response) override {
    if (IsLanguage(request->name())) {
      return Later([&](auto done) {
        language_->List(
            [name = request->name(), response, done = std::move(done)](const auto& models) mutable {
              for (size_t i = 0; models.ok() && i < models->size(); ++i) {
                if ((*models)[i].name == name) response->set_ready((*models)[i].loaded);
              }
              done(models.status());
            });
      });
    }
    response->set_ready(engine_.ready() &&
                        FindModel(engine_.registry(), request->name(), request->version()).ok());
    return Answer(context, absl::OkStatus());
  }

  grpc::ServerUnaryReactor* ServerMetadata(CallbackServerContext* context,
                                           const inference::ServerMetadataRequest*,
                                           inference::ServerMetadataResponse* response) override {
    response->set_name("attnd");
    response->set_version(version_);
    for (const char* extension : {"model_repository", "schedule_policy", "model_configuration",
                                  "sequence", "parameters", "statistics"}) {
      response->add_extensions(extension);
    }
    return Answer(context, absl::OkStatus());
  }

  grpc::ServerUnaryReactor* ModelMetadata(CallbackServerContext* context,
                                          const inference::ModelMetadataRequest* request,
                                          inference::ModelMetadataResponse* response) override {
    if (IsLanguage(request->name())) {
      return Later([&](auto done) {
        language_->DescribeMetadata(request->name(), request->version(),
                                    [response, done = std::move(done)](auto metadata) mutable {
                                      const absl::Status status = metadata.status();
                                      if (status.ok()) *response = *std::move(metadata);
                                      done(status);
                                    });
      });
    }
    const auto op = FindModel(engine_.registry(), request->name(), request->version());
    if (op.ok()) *response = DescribeMetadata((*op)->spec, request->name());
    return Answer(context, op.status());
  }

  grpc::ServerUnaryReactor* ModelConfig(CallbackServerContext* context,
                                        const inference::ModelConfigRequest* request,
                                        inference::ModelConfigResponse* response) override {
    if (IsLanguage(request->name())) {
      return Later([&](auto done) {
        language_->DescribeConfig(request->name(), request->version(),
                                  [response, done = std::move(done)](auto config) mutable {
                                    const absl::Status status = config.status();
                                    if (status.ok()) {
                                      *response->mutable_config() = *std::move(config);
                                    }
                                    done(status);
                                  });
      });
    }
    const auto op = FindModel(engine_.registry(), request->name(), request->version());
    if (op.ok()) {
      *response->mutable_config() =
          DescribeConfig((*op)->spec, request->name(), sequences_.limits().idle);
    }
    return Answer(context, op.status());
  }

  grpc::ServerUnaryReactor* ModelStatistics(CallbackServerContext* context,
                                            const inference::ModelStatisticsRequest* request,
                                            inference::ModelStatisticsResponse* response) override;

  grpc::ServerUnaryReactor* RepositoryIndex(CallbackServerContext* context,
                                            const inference::RepositoryIndexRequest* request,
                                            inference::RepositoryIndexResponse* response) override;
  grpc::ServerUnaryReactor* RepositoryModelLoad(
      CallbackServerContext* context, const inference::RepositoryModelLoadRequest* request,
      inference::RepositoryModelLoadResponse*) override;
  grpc::ServerUnaryReactor* RepositoryModelUnload(
      CallbackServerContext* context, const inference::RepositoryModelUnloadRequest* request,
      inference::RepositoryModelUnloadResponse*) override;

  grpc::ServerUnaryReactor* ModelInfer(CallbackServerContext* context, const ByteBuffer* request,
                                       ByteBuffer* response) override;
  grpc::ServerBidiReactor<ByteBuffer, ByteBuffer>* ModelStreamInfer(
      CallbackServerContext* context) override;

// Methods that are refused alike.
#define ATTND_REFUSE(Method, text)                                          \
  grpc::ServerUnaryReactor* Method(CallbackServerContext* context,          \
                                   const inference::Method##Request*,       \
                                   inference::Method##Response*) override { \
    return Answer(context, absl::UnimplementedError(#Method ": " text));    \
  }
  ATTND_REFUSE(SystemSharedMemoryStatus, "shared memory is not offered; send tensors in messages")
  ATTND_REFUSE(SystemSharedMemoryRegister, "shared memory is not offered; send tensors in messages")
  ATTND_REFUSE(SystemSharedMemoryUnregister,
               "shared memory is not offered; send tensors in messages")
  ATTND_REFUSE(CudaSharedMemoryStatus, "shared memory is not offered; send tensors in messages")
  ATTND_REFUSE(CudaSharedMemoryRegister, "shared memory is not offered; send tensors in messages")
  ATTND_REFUSE(CudaSharedMemoryUnregister, "shared memory is not offered; send tensors in messages")
  ATTND_REFUSE(TraceSetting, "settings belong to whoever starts the server")
  ATTND_REFUSE(LogSettings, "settings belong to whoever starts the server")
#undef ATTND_REFUSE

 private:
  using Answered = absl::AnyInvocable<void(absl::StatusOr<MessageBuilder>)>;
  // One call, from a message to a ModelInferResponse.
  void Run(std::shared_ptr<const inference::ModelInferRequest> message, absl::Time deadline,
           const std::shared_ptr<CancelToken>& cancel, bool streamed, Answered answered);
  // The answer to a call that the engine has evaluated; AnswerTooLarge if no message may have its
  // size.
  absl::StatusOr<MessageBuilder> Encode(const InferCall& call, const EngineResult& result,
                                        bool streamed) const;
  // Within its sequence: the state before goes in, the state after is kept.
  void RunStep(InferCall call, bool streamed, SequenceStore::Turn turn, Answered answered);
  void RunInStream(ByteBuffer& bytes, absl::Time deadline, bool end_on_error,
                   const std::shared_ptr<CancelToken>& cancel, CallStream::Reply reply);

  // Whether the name means a language model, and this server has some.
  bool IsLanguage(absl::string_view name) const {
    return language_ != nullptr && IsLanguageModel(name);
  }

  Engine& engine_;
  SequenceStore& sequences_;
  const std::unique_ptr<LanguageModels> language_;  // Null: there are no language models.
  const RpcLimits limits_;
  const std::string version_;
};

grpc::ServerUnaryReactor* InferenceService::ModelStatistics(
    CallbackServerContext* context, const inference::ModelStatisticsRequest* request,
    inference::ModelStatisticsResponse* response) {
  const auto add = [&](auto done) {
    language_->Statistics(request->name(), [response, done = std::move(done)](auto all) mutable {
      for (size_t i = 0; all.ok() && i < all->size(); ++i) {
        *response->add_model_stats() = std::move((*all)[i]);
      }
      done(all.status());
    });
  };
  if (IsLanguage(request->name())) return Later(add);
  if (!request->name().empty()) {
    const auto op = FindModel(engine_.registry(), request->name(), request->version());
    if (op.ok()) {
      *response->add_model_stats() =
          DescribeStatistics(request->name(), engine_.Statistics((*op)->spec.id()));
    }
    return Answer(context, op.status());
  }
  for (const Operator* op : engine_.registry().operators()) {
    const std::string& id = op->spec.id();
    *response->add_model_stats() = DescribeStatistics(id, engine_.Statistics(id));
  }
  if (language_ == nullptr) return Answer(context, absl::OkStatus());
  return Later(add);
}

absl::Status CheckRepository(absl::string_view name) {
  if (name.empty()) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat("repository_name: given '", Quoted(name), "', expected none: there is one"));
}

grpc::ServerUnaryReactor* InferenceService::RepositoryIndex(
    CallbackServerContext* context, const inference::RepositoryIndexRequest* request,
    inference::RepositoryIndexResponse* response) {
  if (absl::Status s = CheckRepository(request->repository_name()); !s.ok()) {
    return Answer(context, s);
  }
  const auto add = [response, wanted = request->ready()](const std::string& name, bool ready,
                                                         const char* reason) {
    if (wanted && !ready) return;
    auto& model = *response->add_models();
    model.set_name(name);
    model.set_version(std::string(kModelVersion));
    model.set_state(ready ? "READY" : "UNAVAILABLE");
    if (!ready) model.set_reason(reason);
  };
  for (const Operator* op : engine_.registry().operators()) {
    add(op->spec.id(), engine_.ready(), "no worker takes calls");
  }
  if (language_ == nullptr) return Answer(context, absl::OkStatus());
  return Later([&](auto done) {
    language_->List([add, done = std::move(done)](const auto& models) mutable {
      for (size_t i = 0; models.ok() && i < models->size(); ++i) {
        add((*models)[i].name, (*models)[i].loaded, "not loaded: the first call loads it");
      }
      done(models.status());
    });
  });
}

// Operators are there from the start, so that loading one succeeds and changes nothing.
grpc::ServerUnaryReactor* InferenceService::RepositoryModelLoad(
    CallbackServerContext* context, const inference::RepositoryModelLoadRequest* request,
    inference::RepositoryModelLoadResponse*) {
  absl::Status status = CheckRepository(request->repository_name());
  if (status.ok() && IsLanguage(request->model_name()) && request->parameters_size() == 0) {
    return Later([&](auto done) { language_->Load(request->model_name(), std::move(done)); });
  }
  if (status.ok() && !IsLanguage(request->model_name())) {
    status = FindModel(engine_.registry(), request->model_name(), "").status();
  }
  if (status.ok() && request->parameters_size() > 0) {
    status = absl::UnimplementedError(absl::StrCat(
        request->model_name(),
        ": given load parameters, expected none: models have no files or configuration "
        "that a client may replace"));
  }
  return Answer(context, status);
}

grpc::ServerUnaryReactor* InferenceService::RepositoryModelUnload(
    CallbackServerContext* context, const inference::RepositoryModelUnloadRequest* request,
    inference::RepositoryModelUnloadResponse*) {
  absl::Status status = CheckRepository(request->repository_name());
  if (status.ok() && IsLanguage(request->model_name())) {
    return Later([&](auto done) { language_->Unload(request->model_name(), std::move(done)); });
  }
  if (status.ok()) status = FindModel(engine_.registry(), request->model_name(), "").status();
  if (status.ok()) {
    status = absl::UnimplementedError(
        absl::StrCat(request->model_name(), ": operators are built in and cannot be unloaded"));
  }
  return Answer(context, status);
}

absl::StatusOr<MessageBuilder> InferenceService::Encode(const InferCall& call,
                                                        const EngineResult& result,
                                                        bool streamed) const {
  return Guarded([&]() -> absl::StatusOr<MessageBuilder> {
    std::vector<std::string> wanted;
    for (const std::string& name : call.wanted) {
      const bool conditional = call.op->spec.FindOutput(name)->condition.has_value();
      if (!conditional || result.evaluation.outputs.contains(name)) wanted.push_back(name);
    }
    absl::StatusOr<NamedTensors> outputs = NamedTensors();
    if (call.wanted.empty() || !wanted.empty()) {
      outputs = SelectOutputs(call.op->spec.id(), result.evaluation, wanted);
    }
    if (!outputs.ok()) return outputs.status();
    MessageBuilder answer = EncodeInfer(call, result, *outputs, streamed);
    const size_t size = answer.size() + kEnvelopeBytes;
    if (static_cast<int64_t>(size) <= limits_.max_message_bytes) return answer;
    return AnswerTooLarge(call.op->spec.id(), size, limits_.max_message_bytes);
  });
}

// Final states under the names of the inputs that they become.
NamedTensors NextStates(const OpSpec& spec, const NamedTensors& outputs) {
  NamedTensors states;
  for (const Port& port : spec.inputs()) {
    const std::string output = FinalStateName(port.name);
    if (output.empty()) continue;
    if (const Tensor* state = outputs.Find(output)) states.Set(port.name, *state);
  }
  return states;
}

void InferenceService::Run(std::shared_ptr<const inference::ModelInferRequest> message,
                           absl::Time deadline, const std::shared_ptr<CancelToken>& cancel,
                           bool streamed, Answered answered) {
  if (IsLanguage(message->model_name())) {
    return language_->Infer(message, deadline, cancel, streamed, limits_.max_message_bytes,
                            std::move(answered));
  }
  absl::StatusOr<InferCall> decoded =
      Guarded([&] { return DecodeInfer(engine_.registry(), message); });
  if (!decoded.ok()) {
    NoteRefused(engine_, decoded.status());
    return answered(decoded.status());
  }
  InferCall call = *std::move(decoded);
  call.call.deadline = std::min(call.call.deadline, deadline);
  call.call.cancel = cancel;
  if (!call.sequence.id.empty()) {
    const std::string& op = call.op->spec.id();
    const std::string id = call.sequence.id;
    const bool start = call.sequence.start;
    return sequences_.Enter(
        op, id, start,
        [this, call = std::move(call), streamed,
         answered = std::move(answered)](absl::StatusOr<SequenceStore::Turn> turn) mutable {
          if (!turn.ok()) return answered(turn.status());
          RunStep(std::move(call), streamed, *std::move(turn), std::move(answered));
        });
  }
  EngineCall engine_call = std::move(call.call);
  engine_.Evaluate(std::move(engine_call),
                   [this, call = std::move(call), streamed,
                    answered = std::move(answered)](absl::StatusOr<EngineResult> result) mutable {
                     if (!result.ok()) return answered(result.status());
                     answered(Encode(call, *result, streamed));
                   });
}

void InferenceService::RunStep(InferCall call, bool streamed, SequenceStore::Turn turn,
                               Answered answered) {
  EngineCall engine_call = std::move(call.call);
  for (const auto& [name, state] : turn.states()) engine_call.request.inputs.Set(name, state);
  engine_.Evaluate(std::move(engine_call),
                   [this, call = std::move(call), streamed, turn = std::move(turn),
                    answered = std::move(answered)](absl::StatusOr<EngineResult> result) mutable {
                     if (!result.ok()) return answered(result.status());
                     absl::StatusOr<MessageBuilder> answer = Encode(call, *result, streamed);
                     if (answer.ok()) {
                       const absl::Status kept = Guarded([&] {
                         return turn.Commit(NextStates(call.op->spec, result->evaluation.outputs),
                                            call.sequence.end);
                       });
                       if (!kept.ok()) answer = kept;
                     }
                     answered(std::move(answer));
                   });
}

// What the code does not say, for those who look.
void AddReason(grpc::ServerContextBase& context, const absl::Status& status) {
  const absl::string_view reason = InferenceReason(status);
  if (!reason.empty()) context.AddTrailingMetadata("attnd-reason", std::string(reason));
}

grpc::ServerUnaryReactor* InferenceService::ModelInfer(CallbackServerContext* context,
                                                       const ByteBuffer* request,
                                                       ByteBuffer* response) {
  ByteBuffer bytes(*request);
  auto message = Guarded([&] { return ParseMessage<inference::ModelInferRequest>(bytes); });
  if (!message.ok()) {
    NoteRefused(engine_, message.status());
    return Answer(context, message.status());
  }
  const std::shared_ptr<UnaryCall> call = UnaryCall::Start();
  Run(*std::move(message), DeadlineOf(*context), call->cancel(), /*streamed=*/false,
      [call, context, response](absl::StatusOr<MessageBuilder> answer) {
        if (answer.ok()) *response = answer->Build();
        AddReason(*context, answer.status());
        call->Finish(ToInferenceStatus(answer.status()));
      });
  return call.get();
}

void InferenceService::RunInStream(ByteBuffer& bytes, absl::Time deadline, bool end_on_error,
                                   const std::shared_ptr<CancelToken>& cancel,
                                   CallStream::Reply reply) {
  auto message = Guarded([&] { return ParseMessage<inference::ModelInferRequest>(bytes); });
  const std::string id = message.ok() ? (*message)->id() : "";
  const std::string model = message.ok() ? (*message)->model_name() : "";
  auto answered = [reply = std::move(reply), id, model,
                   end_on_error](absl::StatusOr<MessageBuilder> answer) mutable {
    if (!answer.ok() && end_on_error) return reply({{}, ToInferenceStatus(answer.status())});
    MessageBuilder response;
    if (answer.ok()) {
      response.AppendMessage(inference::ModelStreamInferResponse::kInferResponseFieldNumber,
                             *std::move(answer));
    } else {
      inference::ModelStreamInferResponse error;
      error.set_error_message(WireMessage(answer.status()));
      error.mutable_infer_response()->set_id(id);
      error.mutable_infer_response()->set_model_name(model);
      response.Append(error);
    }
    reply({response.Build(), grpc::Status::OK});
  };
  if (!message.ok()) {
    NoteRefused(engine_, message.status());
    return answered(message.status());
  }
  Run(*std::move(message), deadline, cancel, /*streamed=*/true, std::move(answered));
}

grpc::ServerBidiReactor<ByteBuffer, ByteBuffer>* InferenceService::ModelStreamInfer(
    CallbackServerContext* context) {
  const auto& metadata = context->client_metadata();
  const auto header = metadata.find("triton_grpc_error");
  const bool end_on_error = header != metadata.end() && header->second == "true";
  return CallStream::Start(CallStream::Order::kAsAsked, limits_.max_calls_per_stream,
                           [this, deadline = DeadlineOf(*context), end_on_error](
                               ByteBuffer& request, const std::shared_ptr<CancelToken>& cancel,
                               CallStream::Reply reply) {
                             RunInStream(request, deadline, end_on_error, cancel, std::move(reply));
                           });
}

}  // namespace

std::unique_ptr<grpc::Service> MakeInferenceService(Engine& engine, SequenceStore& sequences,
                                                    std::unique_ptr<LanguageModels> models,
                                                    const RpcLimits& limits, std::string version) {
  return std::make_unique<InferenceService>(engine, sequences, std::move(models), limits,
                                            std::move(version));
}

}  // namespace attnd
