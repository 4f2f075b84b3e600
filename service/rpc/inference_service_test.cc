#include <gmock/gmock.h>

#include <thread>

#include "service/overload.h"
#include "service/rpc/testing/rpc_fixture.h"

namespace attnd {
namespace {

using grpc::StatusCode;
using testing::ElementsAre;
using testing::HasSubstr;

class InferenceServiceTest : public RpcFixture {
 protected:
  InferenceServiceTest() : RpcFixture({.max_calls_per_stream = 8}, {.idle = absl::Seconds(30)}) {}

  // One token of a sequence; v is all `value`.
  static inference::ModelInferRequest Step(int64_t sequence, bool start, bool end, float value) {
    TestCall call = RecurrenceCall(1);
    call.inputs["v"] = Values<float>({1, 1, 2, 4}, std::vector<float>(8, value));
    inference::ModelInferRequest request = call.ToInference();
    auto& parameters = *request.mutable_parameters();
    parameters["sequence_id"].set_int64_param(sequence);
    parameters["sequence_start"].set_bool_param(start);
    parameters["sequence_end"].set_bool_param(end);
    return request;
  }
};

TEST_F(InferenceServiceTest, ServerTellsItsHealthAndExtensions) {
  {
    grpc::ClientContext context;
    inference::ServerLiveResponse response;
    ASSERT_TRUE(inference_->ServerLive(&context, {}, &response).ok());
    EXPECT_TRUE(response.live());
  }
  const auto ready = [this] {
    grpc::ClientContext context;
    inference::ServerReadyResponse response;
    EXPECT_TRUE(inference_->ServerReady(&context, {}, &response).ok());
    return response.ready();
  };
  EXPECT_TRUE(ready());
  engine_.set_ready(false);
  EXPECT_FALSE(ready());
  engine_.set_ready(true);
  grpc::ClientContext context;
  inference::ServerMetadataResponse response;
  ASSERT_TRUE(inference_->ServerMetadata(&context, {}, &response).ok());
  EXPECT_EQ(response.name(), "attnd");
  EXPECT_EQ(response.version(), "test");
  EXPECT_THAT(response.extensions(),
              ElementsAre("model_repository", "schedule_policy", "model_configuration", "sequence",
                          "parameters", "statistics"));
}

TEST_F(InferenceServiceTest, ModelsAreReadyByIdAndVersion) {
  const auto ready = [this](const std::string& name, const std::string& version) {
    inference::ModelReadyRequest request;
    request.set_name(name);
    request.set_version(version);
    grpc::ClientContext context;
    inference::ModelReadyResponse response;
    EXPECT_TRUE(inference_->ModelReady(&context, request, &response).ok());
    return response.ready();
  };
  EXPECT_TRUE(ready("toy_select", ""));
  EXPECT_TRUE(ready("op.toy_select", "1"));
  EXPECT_FALSE(ready("toy_select", "2"));
  EXPECT_FALSE(ready("toy_selection", ""));
  EXPECT_FALSE(ready("../../etc/passwd", ""));
  engine_.set_ready(false);
  EXPECT_FALSE(ready("toy_select", ""));
}

TEST_F(InferenceServiceTest, MetadataAndConfigFollowTheSchema) {
  inference::ModelMetadataRequest request;
  request.set_name("toy_recurrence");
  inference::ModelMetadataResponse metadata;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(inference_->ModelMetadata(&context, request, &metadata).ok());
  }
  EXPECT_EQ(metadata.platform(), "attnd");
  EXPECT_THAT(metadata.versions(), ElementsAre("1"));
  ASSERT_EQ(metadata.inputs_size(), 9);
  EXPECT_EQ(metadata.inputs(0).datatype(), "FP32");
  EXPECT_THAT(metadata.inputs(0).shape(), ElementsAre(-1, -1, -1, -1));
  EXPECT_EQ(metadata.inputs(8).name(), "cu_seqlens");
  EXPECT_EQ(metadata.inputs(8).datatype(), "INT32");
  ASSERT_EQ(metadata.outputs_size(), 4);

  inference::ModelConfigRequest config_request;
  config_request.set_name("op.toy_recurrence");
  inference::ModelConfigResponse response;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(inference_->ModelConfig(&context, config_request, &response).ok());
  }
  const inference::ModelConfig& config = response.config();
  EXPECT_EQ(config.name(), "op.toy_recurrence");
  EXPECT_EQ(config.max_batch_size(), 0);
  EXPECT_FALSE(config.input(0).optional());
  EXPECT_TRUE(config.input(3).optional());
  EXPECT_TRUE(config.input(4).optional());
  EXPECT_FALSE(config.model_transaction_policy().decoupled());
  ASSERT_TRUE(config.has_sequence_batching());
  EXPECT_EQ(config.sequence_batching().max_sequence_idle_microseconds(), 30000000u);
  ASSERT_EQ(config.sequence_batching().state_size(), 2);
  EXPECT_EQ(config.sequence_batching().state(1).input_name(), "initial_state_n");
  EXPECT_EQ(config.sequence_batching().state(1).output_name(), "final_state_n");
  EXPECT_THAT(config.parameters().at("attribute.scale").string_value(), HasSubstr("1/sqrt(K)"));

  config_request.set_name("toy_select");
  grpc::ClientContext context;
  ASSERT_TRUE(inference_->ModelConfig(&context, config_request, &response).ok());
  EXPECT_FALSE(response.config().has_sequence_batching());
  EXPECT_EQ(response.config().input(2).data_type(), inference::TYPE_BOOL);
}

TEST_F(InferenceServiceTest, UnknownModelsAndVersionsAreNotFound) {
  inference::ModelMetadataRequest request;
  inference::ModelMetadataResponse response;
  for (const auto& [name, version] : std::vector<std::pair<std::string, std::string>>{
           {"toy", ""}, {"toy_select", "2"}, {"toy_select", "latest"}}) {
    request.set_name(name);
    request.set_version(version);
    grpc::ClientContext context;
    EXPECT_EQ(inference_->ModelMetadata(&context, request, &response).error_code(),
              StatusCode::NOT_FOUND);
  }
}

TEST_F(InferenceServiceTest, RepositoryListsOperators) {
  inference::RepositoryIndexResponse response;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(inference_->RepositoryIndex(&context, {}, &response).ok());
  }
  ASSERT_EQ(response.models_size(), 2);
  EXPECT_EQ(response.models(0).name(), "toy_recurrence");
  EXPECT_EQ(response.models(0).version(), "1");
  EXPECT_EQ(response.models(0).state(), "READY");
  engine_.set_ready(false);
  inference::RepositoryIndexRequest request;
  request.set_ready(true);
  {
    grpc::ClientContext context;
    ASSERT_TRUE(inference_->RepositoryIndex(&context, request, &response).ok());
  }
  EXPECT_EQ(response.models_size(), 0);
  request.set_repository_name("elsewhere");
  grpc::ClientContext context;
  EXPECT_EQ(inference_->RepositoryIndex(&context, request, &response).error_code(),
            StatusCode::UNIMPLEMENTED);
}

TEST_F(InferenceServiceTest, LoadSucceedsUnloadIsRefused) {
  const auto load = [this](const std::string& model, bool with_parameters) {
    inference::RepositoryModelLoadRequest request;
    request.set_model_name(model);
    if (with_parameters) (*request.mutable_parameters())["config"].set_string_param("{}");
    grpc::ClientContext context;
    inference::RepositoryModelLoadResponse response;
    return inference_->RepositoryModelLoad(&context, request, &response).error_code();
  };
  EXPECT_EQ(load("toy_select", false), StatusCode::OK);
  EXPECT_EQ(load("toy_select", true), StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(load("toy_unknown", false), StatusCode::NOT_FOUND);
  inference::RepositoryModelUnloadRequest request;
  request.set_model_name("toy_select");
  grpc::ClientContext context;
  inference::RepositoryModelUnloadResponse response;
  const grpc::Status status = inference_->RepositoryModelUnload(&context, request, &response);
  EXPECT_EQ(status.error_code(), StatusCode::UNIMPLEMENTED);
  EXPECT_THAT(status.error_message(), HasSubstr("cannot be unloaded"));
}

TEST_F(InferenceServiceTest, SharedMemoryAndSettingsAreUnimplemented) {
  const auto code = [](auto call) {
    grpc::ClientContext context;
    const grpc::Status status = call(&context);
    EXPECT_FALSE(status.error_message().empty());
    return status.error_code();
  };
#define EXPECT_UNIMPLEMENTED(Method)                                                       \
  EXPECT_EQ(code([this](grpc::ClientContext* context) {                                    \
              inference::Method##Response response;                                        \
              return inference_->Method(context, inference::Method##Request(), &response); \
            }),                                                                            \
            StatusCode::UNIMPLEMENTED)
  EXPECT_UNIMPLEMENTED(SystemSharedMemoryStatus);
  EXPECT_UNIMPLEMENTED(SystemSharedMemoryRegister);
  EXPECT_UNIMPLEMENTED(SystemSharedMemoryUnregister);
  EXPECT_UNIMPLEMENTED(CudaSharedMemoryStatus);
  EXPECT_UNIMPLEMENTED(CudaSharedMemoryRegister);
  EXPECT_UNIMPLEMENTED(CudaSharedMemoryUnregister);
  EXPECT_UNIMPLEMENTED(TraceSetting);
  EXPECT_UNIMPLEMENTED(LogSettings);
#undef EXPECT_UNIMPLEMENTED
}

TEST_F(InferenceServiceTest, InferComputes) {
  TestCall call = RecurrenceCall(2);
  inference::ModelInferRequest request = call.ToInference();
  request.set_model_name("op.toy_recurrence");
  request.set_model_version("1");
  request.set_id("r7");
  inference::ModelInferResponse response;
  const grpc::Status status = Infer(request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.model_name(), "op.toy_recurrence");
  EXPECT_EQ(response.model_version(), "1");
  EXPECT_EQ(response.id(), "r7");
  EXPECT_EQ(response.parameters().at("attnd_kernel").string_param(), "composed");
  EXPECT_THAT(response.parameters().at("attnd_device").string_param(), HasSubstr("cpu"));
  EXPECT_EQ(response.parameters().at("attnd_batch_size").int64_param(), 1);
  EXPECT_EQ(response.parameters().count("triton_final_response"), 0u);
  ASSERT_EQ(response.outputs_size(), 3);
  EXPECT_EQ(response.outputs(0).name(), "o");
  EXPECT_EQ(response.outputs(0).datatype(), "FP32");
  EXPECT_THAT(response.outputs(0).shape(), ElementsAre(1, 2, 2, 4));
  EXPECT_THAT(Floats(RawOutput(response, "final_state")),
              ElementsAre(10, 12, 14, 16, 18, 20, 22, 24));
}

TEST_F(InferenceServiceTest, TypedContentsEqualRawOnes) {
  inference::ModelInferRequest raw = RecurrenceCall().ToInference();
  inference::ModelInferRequest typed = raw;
  typed.clear_raw_input_contents();
  for (int i = 0; i < raw.inputs_size(); ++i) {
    const std::vector<float> values = Floats(raw.raw_input_contents(i));
    typed.mutable_inputs(i)->mutable_contents()->mutable_fp32_contents()->Add(values.begin(),
                                                                              values.end());
  }
  inference::ModelInferResponse from_raw, from_typed;
  ASSERT_TRUE(Infer(raw, &from_raw).ok());
  const grpc::Status status = Infer(typed, &from_typed);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(RawOutput(from_raw, "o"), RawOutput(from_typed, "o"));
}

TEST_F(InferenceServiceTest, EveryTypedListIsRead) {
  inference::ModelInferRequest request = SelectCall().ToInference();
  request.clear_raw_input_contents();
  for (auto& input : *request.mutable_inputs()) {
    auto& contents = *input.mutable_contents();
    if (input.name() == "q") {
      input.set_datatype("FP64");
      for (int i = 0; i < 8; ++i) contents.add_fp64_contents(i);
    } else if (input.name() == "index") {
      input.set_datatype("INT64");
      for (int i = 0; i < 8; ++i) contents.add_int64_contents(i % 4);
    } else {
      for (int i = 0; i < 8; ++i) contents.add_bool_contents(i % 2 == 0);
    }
  }
  inference::ModelInferResponse response;
  const grpc::Status status = Infer(request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.outputs(0).datatype(), "FP64");
  for (auto& input : *request.mutable_inputs()) {
    if (input.name() != "index") continue;
    input.set_datatype("INT32");
    input.clear_contents();
    for (int i = 0; i < 8; ++i) input.mutable_contents()->add_int_contents(i % 4);
  }
  EXPECT_TRUE(Infer(request, &response).ok());
}

TEST_F(InferenceServiceTest, HalfTypesTravelRaw) {
  for (DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    TestCall call = RecurrenceCall();
    for (auto& [name, tensor] : call.inputs) tensor = Zeros(dtype, tensor.shape);
    inference::ModelInferResponse response;
    const grpc::Status status = Infer(call.ToInference(), &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.outputs(0).datatype(), dtype == DType::kFloat16 ? "FP16" : "BF16");
    EXPECT_EQ(RawOutput(response, "o").size(), 48u);
    EXPECT_EQ(response.outputs(1).datatype(), "FP32");
  }
}

TEST_F(InferenceServiceTest, EmptyTensorsNeedNoContents) {
  inference::ModelInferRequest request = RecurrenceCall(0).ToInference();
  inference::ModelInferResponse response;
  EXPECT_TRUE(Infer(request, &response).ok());
  request.clear_raw_input_contents();
  const grpc::Status status = Infer(request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(RawOutput(response, "o"), "");
}

TEST_F(InferenceServiceTest, AttributesOfEveryType) {
  inference::ModelInferRequest request = RecurrenceCall().ToInference();
  auto& parameters = *request.mutable_parameters();
  parameters["scale"].set_double_param(0.5);
  parameters["eps"].set_int64_param(0);
  parameters["gate"].set_string_param("sigmoid");
  parameters["window"].set_string_param("[3, 5]");
  parameters["flips"].set_string_param("[true, false]");
  parameters["weights"].set_string_param("[1, 0.5]");
  parameters["order"].set_uint64_param(2);
  parameters["return_lse"].set_bool_param(true);
  parameters["label"].set_string_param("[not a list]");
  inference::ModelInferResponse response;
  const grpc::Status status = Infer(request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.outputs_size(), 4);
}

TEST_F(InferenceServiceTest, RequestedOutputsComeInTheOrderAsked) {
  TestCall call = RecurrenceCall();
  call.outputs = {"final_state_n", "o"};
  inference::ModelInferResponse response;
  ASSERT_TRUE(Infer(call.ToInference(), &response).ok());
  ASSERT_EQ(response.outputs_size(), 2);
  EXPECT_EQ(response.outputs(0).name(), "final_state_n");
  EXPECT_EQ(response.outputs(1).name(), "o");
  EXPECT_EQ(response.raw_output_contents(1).size(), 96u);
}

// Stock clients ask for all that the metadata lists.
TEST_F(InferenceServiceTest, OutputsThatACallDoesNotHaveAreLeftOut) {
  TestCall call = RecurrenceCall();
  call.outputs = {"lse", "o"};
  inference::ModelInferResponse response;
  ASSERT_TRUE(Infer(call.ToInference(), &response).ok());
  ASSERT_EQ(response.outputs_size(), 1);
  EXPECT_EQ(response.outputs(0).name(), "o");
  EXPECT_EQ(response.raw_output_contents_size(), 1);
  call.outputs = {"lse"};
  ASSERT_TRUE(Infer(call.ToInference(), &response).ok());
  EXPECT_EQ(response.outputs_size(), 0);
  call.attributes["return_lse"] = true;
  ASSERT_TRUE(Infer(call.ToInference(), &response).ok());
  ASSERT_EQ(response.outputs_size(), 1);
  EXPECT_EQ(response.outputs(0).name(), "lse");
}

TEST_F(InferenceServiceTest, SchedulingParametersReachTheEngine) {
  engine_.Hold(true);
  inference::ModelInferRequest request = RecurrenceCall().ToInference();
  auto& parameters = *request.mutable_parameters();
  parameters["timeout"].set_int64_param(5000000);
  parameters["attnd_kernel"].set_string_param("composed");
  for (const auto& [level, expected] :
       std::vector<std::pair<uint64_t, uint32_t>>{{0, 0}, {1, 2}, {2, 1}, {3, 0}, {99, 0}}) {
    parameters["priority"].set_uint64_param(level);
    grpc::Status status;
    inference::ModelInferResponse response;
    std::thread client([&] { status = Infer(request, &response); });
    ASSERT_TRUE(engine_.AwaitHeld(1));
    EXPECT_EQ(engine_.held_call(0).priority, expected);
    EXPECT_LT(engine_.held_call(0).deadline, absl::Now() + absl::Seconds(5));
    EXPECT_GT(engine_.held_call(0).deadline, absl::Now());
    EXPECT_EQ(engine_.held_call(0).request.kernel, "composed");
    engine_.Release();
    client.join();
    EXPECT_TRUE(status.ok());
  }
}

TEST_F(InferenceServiceTest, OverloadAndLatenessAreUnavailableWithAReason) {
  for (const auto& [failure, reason] : std::vector<std::pair<absl::Status, std::string>>{
           {OverloadError("queue full"), "overload"},
           {absl::DeadlineExceededError("too late"), "deadline"}}) {
    engine_.FailWith(failure);
    grpc::ClientContext context;
    inference::ModelInferResponse response;
    const grpc::Status status =
        inference_->ModelInfer(&context, RecurrenceCall().ToInference(), &response);
    EXPECT_EQ(status.error_code(), StatusCode::UNAVAILABLE);
    const auto& trailers = context.GetServerTrailingMetadata();
    const auto found = trailers.find("attnd-reason");
    ASSERT_NE(found, trailers.end());
    EXPECT_EQ(std::string(found->second.data(), found->second.size()), reason);
  }
}

TEST_F(InferenceServiceTest, WhatNeverFitsIsNoOverload) {
  engine_.FailWith(absl::ResourceExhaustedError("needs 2 bytes, the limit is 1"));
  grpc::ClientContext context;
  inference::ModelInferResponse response;
  const grpc::Status status =
      inference_->ModelInfer(&context, RecurrenceCall().ToInference(), &response);
  EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(context.GetServerTrailingMetadata().count("attnd-reason"), 0u);
}

TEST_F(InferenceServiceTest, StatisticsCount) {
  inference::ModelInferResponse answer;
  ASSERT_TRUE(Infer(RecurrenceCall().ToInference(), &answer).ok());
  inference::ModelStatisticsRequest request;
  request.set_name("toy_recurrence");
  inference::ModelStatisticsResponse response;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(inference_->ModelStatistics(&context, request, &response).ok());
  }
  ASSERT_EQ(response.model_stats_size(), 1);
  EXPECT_EQ(response.model_stats(0).inference_count(), 1u);
  EXPECT_EQ(response.model_stats(0).inference_stats().success().count(), 1u);
  EXPECT_EQ(response.model_stats(0).inference_stats().success().ns(), 1000u);
  ASSERT_EQ(response.model_stats(0).batch_stats_size(), 1);
  EXPECT_EQ(response.model_stats(0).batch_stats(0).batch_size(), 1u);
  EXPECT_EQ(response.model_stats(0).batch_stats(0).compute_infer().count(), 1u);
  EXPECT_EQ(response.model_stats(0).batch_stats(0).compute_infer().ns(), 700u);
  {
    grpc::ClientContext context;
    ASSERT_TRUE(inference_->ModelStatistics(&context, {}, &response).ok());
    EXPECT_EQ(response.model_stats_size(), 2);
  }
  request.set_name("toy_nothing");
  grpc::ClientContext context;
  EXPECT_EQ(inference_->ModelStatistics(&context, request, &response).error_code(),
            StatusCode::NOT_FOUND);
}

TEST_F(InferenceServiceTest, SequenceKeepsEveryState) {
  inference::ModelInferResponse response;
  for (int step = 0; step < 5; ++step) {
    const grpc::Status status = Infer(Step(42, step == 0, step == 4, 1), &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(Floats(RawOutput(response, "o"))[0], static_cast<float>(step + 1));
    EXPECT_EQ(Floats(RawOutput(response, "final_state_n"))[1], static_cast<float>(step + 1));
  }
  EXPECT_EQ(sequences_.usage().sequences, 0u);
  const grpc::Status status = Infer(Step(42, false, false, 1), &response);
  EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("sequence_id: given 42"));
}

TEST_F(InferenceServiceTest, SplitSequenceEqualsTheWholeCall) {
  const TestCall whole = RecurrenceCall(6);
  inference::ModelInferResponse response;
  ASSERT_TRUE(Infer(whole.ToInference(), &response).ok());
  const std::string expected = RawOutput(response, "o");
  std::string joined;
  for (int begin : {0, 1, 3}) {
    const int end = begin == 0 ? 1 : begin == 1 ? 3 : 6;
    TestCall part = RecurrenceCall(end - begin);
    part.inputs["v"].data = whole.inputs.at("v").data.substr(static_cast<size_t>(begin) * 32,
                                                             static_cast<size_t>(end - begin) * 32);
    inference::ModelInferRequest request = part.ToInference();
    (*request.mutable_parameters())["sequence_id"].set_string_param("text-id");
    (*request.mutable_parameters())["sequence_start"].set_bool_param(begin == 0);
    ASSERT_TRUE(Infer(request, &response).ok());
    joined += RawOutput(response, "o");
  }
  EXPECT_EQ(joined, expected);
}

TEST_F(InferenceServiceTest, SequenceMayStartFromAGivenState) {
  TestCall call = RecurrenceCall(1);
  call.inputs["v"] = Zeros(DType::kFloat32, {1, 1, 2, 4});
  call.inputs["initial_state"] = Values<float>({1, 2, 4}, std::vector<float>(8, 100));
  inference::ModelInferRequest request = call.ToInference();
  (*request.mutable_parameters())["sequence_id"].set_int64_param(1);
  (*request.mutable_parameters())["sequence_start"].set_bool_param(true);
  inference::ModelInferResponse response;
  ASSERT_TRUE(Infer(request, &response).ok());
  ASSERT_TRUE(Infer(Step(1, false, true, 1), &response).ok());
  EXPECT_EQ(Floats(RawOutput(response, "o"))[0], 101);
}

TEST_F(InferenceServiceTest, AFailedStepLeavesTheSequenceAsItWas) {
  inference::ModelInferResponse response;
  ASSERT_TRUE(Infer(Step(9, true, false, 1), &response).ok());
  inference::ModelInferRequest bad = Step(9, false, false, 1);
  (*bad.mutable_parameters())["scale"].set_string_param("much");
  EXPECT_EQ(Infer(bad, &response).error_code(), StatusCode::INVALID_ARGUMENT);
  engine_.FailWith(absl::UnavailableError("worker lost"));
  EXPECT_EQ(Infer(Step(9, false, true, 1), &response).error_code(), StatusCode::UNAVAILABLE);
  engine_.FailWith(absl::OkStatus());
  ASSERT_TRUE(Infer(Step(9, false, true, 1), &response).ok());
  EXPECT_EQ(Floats(RawOutput(response, "o"))[0], 2);
}

TEST_F(InferenceServiceTest, ConcurrentStepsOfOneSequenceTakeTurns) {
  inference::ModelInferResponse response;
  ASSERT_TRUE(Infer(Step(5, true, false, 1), &response).ok());
  std::vector<std::thread> clients;
  clients.reserve(4);
  for (int t = 0; t < 4; ++t) {
    clients.emplace_back([this] {
      for (int i = 0; i < 10; ++i) {
        inference::ModelInferResponse mine;
        const grpc::Status status = Infer(Step(5, false, false, 1), &mine);
        EXPECT_TRUE(status.ok()) << status.error_message();
      }
    });
  }
  for (std::thread& client : clients) client.join();
  ASSERT_TRUE(Infer(Step(5, false, true, 1), &response).ok());
  EXPECT_EQ(Floats(RawOutput(response, "o"))[0], 42);
}

TEST_F(InferenceServiceTest, StreamAnswersInOrder) {
  engine_.Hold(true);
  grpc::ClientContext context;
  auto stream = inference_->ModelStreamInfer(&context);
  inference::ModelInferRequest request = RecurrenceCall().ToInference();
  (*request.mutable_parameters())["triton_enable_empty_final_response"].set_bool_param(true);
  for (const char* id : {"a", "b"}) {
    request.set_id(id);
    ASSERT_TRUE(stream->Write(request));
  }
  ASSERT_TRUE(engine_.AwaitHeld(2));
  engine_.Release(1);
  engine_.Release(0);
  stream->WritesDone();
  inference::ModelStreamInferResponse response;
  for (const char* id : {"a", "b"}) {
    ASSERT_TRUE(stream->Read(&response));
    EXPECT_EQ(response.error_message(), "");
    EXPECT_EQ(response.infer_response().id(), id);
    EXPECT_TRUE(response.infer_response().parameters().at("triton_final_response").bool_param());
    EXPECT_EQ(RawOutput(response.infer_response(), "o").size(), 96u);
  }
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(InferenceServiceTest, StreamCarriesASequence) {
  grpc::ClientContext context;
  auto stream = inference_->ModelStreamInfer(&context);
  for (int step = 0; step < 20; ++step) {
    ASSERT_TRUE(stream->Write(Step(77, step == 0, step == 19, 1)));
  }
  stream->WritesDone();
  inference::ModelStreamInferResponse response;
  for (int step = 0; step < 20; ++step) {
    ASSERT_TRUE(stream->Read(&response));
    ASSERT_EQ(response.error_message(), "");
    EXPECT_EQ(Floats(RawOutput(response.infer_response(), "o"))[0], static_cast<float>(step + 1));
  }
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(InferenceServiceTest, StreamErrorsAreInBand) {
  grpc::ClientContext context;
  auto stream = inference_->ModelStreamInfer(&context);
  inference::ModelInferRequest bad = RecurrenceCall().ToInference();
  bad.set_id("bad");
  bad.set_model_name("toy_nothing");
  ASSERT_TRUE(stream->Write(bad));
  ASSERT_TRUE(stream->Write(RecurrenceCall().ToInference()));
  inference::ModelStreamInferResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_THAT(response.error_message(), HasSubstr("toy_nothing"));
  EXPECT_EQ(response.infer_response().id(), "bad");
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.error_message(), "");
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(InferenceServiceTest, StreamErrorsEndTheStreamWhereAsked) {
  grpc::ClientContext context;
  context.AddMetadata("triton_grpc_error", "true");
  auto stream = inference_->ModelStreamInfer(&context);
  inference::ModelInferRequest bad = RecurrenceCall().ToInference();
  bad.set_model_name("toy_nothing");
  ASSERT_TRUE(stream->Write(RecurrenceCall().ToInference()));
  ASSERT_TRUE(stream->Write(bad));
  inference::ModelStreamInferResponse response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.error_message(), "");
  EXPECT_FALSE(stream->Read(&response));  // Without the client having ended its side.
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), StatusCode::NOT_FOUND);
  EXPECT_THAT(status.error_message(), HasSubstr("toy_nothing"));
}

}  // namespace
}  // namespace attnd
