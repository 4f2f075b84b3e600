#include <gmock/gmock.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <set>
#include <thread>
#include <vector>

#include "service/rpc/testing/rpc_fixture.h"

namespace attnd {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class OperatorsServiceTest : public RpcFixture {
 protected:
  OperatorsServiceTest() : RpcFixture({.max_calls_per_stream = 4}) {}
};

TEST_F(OperatorsServiceTest, ListFilters) {
  v1::ListRequest request;
  v1::ListResponse response;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(operators_->List(&context, request, &response).ok());
  }
  ASSERT_EQ(response.operators_size(), 2);
  EXPECT_EQ(response.operators(0).id(), "toy_recurrence");
  EXPECT_TRUE(response.operators(0).stateful());
  EXPECT_TRUE(response.operators(0).packs_sequences());
  EXPECT_EQ(response.operators(0).kernels(0).name(), "toy_cpu");
  request.set_filter("sel");
  grpc::ClientContext context;
  ASSERT_TRUE(operators_->List(&context, request, &response).ok());
  ASSERT_EQ(response.operators_size(), 1);
  EXPECT_EQ(response.operators(0).id(), "toy_select");
  EXPECT_FALSE(response.operators(0).stateful());
}

TEST_F(OperatorsServiceTest, DescribeTellsTheSchema) {
  v1::DescribeRequest request;
  request.set_op("toy_recurrence");
  v1::OperatorDescription response;
  grpc::ClientContext context;
  ASSERT_TRUE(operators_->Describe(&context, request, &response).ok());
  ASSERT_EQ(response.inputs_size(), 9);
  const v1::PortDescription& g = response.inputs(3);
  EXPECT_EQ(g.name(), "g");
  EXPECT_EQ(g.type(), "float32");
  EXPECT_TRUE(g.optional());
  ASSERT_EQ(g.shapes_size(), 2);
  EXPECT_THAT(g.shapes(1).dims(), ElementsAre("B", "T", "H"));
  EXPECT_THAT(response.inputs(4).condition(), HasSubstr("softplus"));
  const v1::AttributeDescription& scale = response.attributes(0);
  EXPECT_EQ(scale.default_value(), "1/sqrt(K)");
  EXPECT_EQ(scale.doc(), "multiplies q");
  EXPECT_THAT(response.attributes(2).choices(), ElementsAre("log", "softplus", "sigmoid"));
  EXPECT_EQ(response.attributes(3).default_value(), "[7, 7]");
  EXPECT_EQ(response.outputs(1).name(), "lse");
  EXPECT_EQ(response.rules_size(), 2);
  EXPECT_EQ(response.tolerances_size(), 4);
}

TEST_F(OperatorsServiceTest, UnknownOperatorNamesTheNearest) {
  v1::DescribeRequest request;
  request.set_op("toy_recurrense");
  v1::OperatorDescription response;
  grpc::ClientContext context;
  const grpc::Status status = operators_->Describe(&context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(status.error_message(), HasSubstr("toy_recurrence"));
}

TEST_F(OperatorsServiceTest, EvaluateComputes) {
  TestCall call = RecurrenceCall(2);
  call.inputs["initial_state"] = Values<float>({1, 2, 4}, {10, 10, 10, 10, 10, 10, 10, 10});
  v1::EvaluateRequest request = call.ToNative();
  request.set_request_id("r1");
  v1::EvaluateResponse response;
  const grpc::Status status = Evaluate(request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.request_id(), "r1");
  EXPECT_EQ(response.kernel(), "composed");
  EXPECT_EQ(response.batch_size(), 1u);
  EXPECT_EQ(response.timing().queue_us(), 3u);
  ASSERT_EQ(response.outputs_size(), 3);
  EXPECT_THAT(response.outputs().at("o").shape(), ElementsAre(1, 2, 2, 4));
  EXPECT_THAT(Floats(response.outputs().at("o").data()),
              ElementsAre(11, 12, 13, 14, 15, 16, 17, 18, 20, 22, 24, 26, 28, 30, 32, 34));
  EXPECT_THAT(Floats(response.outputs().at("final_state").data()),
              ElementsAre(20, 22, 24, 26, 28, 30, 32, 34));
  EXPECT_THAT(Floats(response.outputs().at("final_state_n").data()), ElementsAre(2, 2));
}

TEST_F(OperatorsServiceTest, EveryTypeGoesThere) {
  for (DType dtype : {DType::kFloat16, DType::kBFloat16, DType::kFloat32, DType::kFloat64}) {
    TestCall call = RecurrenceCall(2);
    for (auto& [name, tensor] : call.inputs) tensor = Zeros(dtype, tensor.shape);
    v1::EvaluateResponse response;
    const grpc::Status status = Evaluate(call.ToNative(), &response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.outputs().at("o").data().size(), 16 * SizeOf(dtype));
  }
}

TEST_F(OperatorsServiceTest, NoTokensIsLegal) {
  TestCall call = RecurrenceCall(0);
  v1::EvaluateResponse response;
  const grpc::Status status = Evaluate(call.ToNative(), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_THAT(response.outputs().at("o").shape(), ElementsAre(1, 0, 2, 4));
  EXPECT_EQ(response.outputs().at("o").data(), "");
  EXPECT_THAT(Floats(response.outputs().at("final_state").data()),
              ElementsAre(0, 0, 0, 0, 0, 0, 0, 0));
}

TEST_F(OperatorsServiceTest, OnlyWantedOutputsComeBack) {
  TestCall call = RecurrenceCall();
  call.attributes["return_lse"] = true;
  call.outputs = {"lse", "o"};
  v1::EvaluateResponse response;
  const grpc::Status status = Evaluate(call.ToNative(), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.outputs_size(), 2);
  EXPECT_TRUE(response.outputs().contains("lse"));
}

TEST_F(OperatorsServiceTest, LargeTensorsSurviveUncopied) {
  constexpr int64_t kTokens = 20000;
  const TestCall call = RecurrenceCall(kTokens);
  v1::EvaluateResponse response;
  ASSERT_TRUE(Evaluate(call.ToNative(), &response).ok());
  const std::vector<float> o = Floats(response.outputs().at("o").data());
  ASSERT_EQ(o.size(), static_cast<size_t>(kTokens) * 8);
  EXPECT_EQ(o[8], 1 + 9);
  EXPECT_EQ(o[16], 1 + 9 + 17);
}

TEST_F(OperatorsServiceTest, DeadlineAndPriorityReachTheEngine) {
  engine_.Hold(true);
  v1::EvaluateRequest request = RecurrenceCall().ToNative();
  request.set_priority(2);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  grpc::Status status;
  v1::EvaluateResponse response;
  std::thread client([&] { status = operators_->Evaluate(&context, request, &response); });
  ASSERT_TRUE(engine_.AwaitHeld(1));
  const EngineCall& call = engine_.held_call(0);
  EXPECT_EQ(call.priority, 2u);
  EXPECT_LT(call.deadline, absl::Now() + absl::Seconds(61));
  EXPECT_GT(call.deadline, absl::Now() + absl::Seconds(30));
  engine_.Release();
  client.join();
  EXPECT_TRUE(status.ok());
}

TEST_F(OperatorsServiceTest, CancellationReachesTheEngine) {
  engine_.Hold(true);
  grpc::ClientContext context;
  grpc::Status status;
  v1::EvaluateResponse response;
  const v1::EvaluateRequest request = RecurrenceCall().ToNative();
  std::thread client([&] { status = operators_->Evaluate(&context, request, &response); });
  ASSERT_TRUE(engine_.AwaitHeld(1));
  const std::shared_ptr<CancelToken> cancel = engine_.held_call(0).cancel;
  EXPECT_FALSE(cancel->cancelled());
  context.TryCancel();
  client.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  for (int i = 0; i < 1000 && !cancel->cancelled(); ++i) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_TRUE(cancel->cancelled());
  engine_.Release();  // The message that the tensors are views on is still there.
}

TEST_F(OperatorsServiceTest, OverloadHasItsOwnCode) {
  engine_.FailWith(absl::ResourceExhaustedError("queue full; retry in about 5 ms"));
  v1::EvaluateResponse response;
  const grpc::Status status = Evaluate(RecurrenceCall().ToNative(), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(OperatorsServiceTest, BatchAnswersOutOfOrderAndKeepsErrorsInBand) {
  engine_.Hold(true);
  grpc::ClientContext context;
  auto stream = operators_->EvaluateBatch(&context);
  v1::EvaluateRequest request = RecurrenceCall().ToNative();
  request.set_request_id("a");
  ASSERT_TRUE(stream->Write(request));
  request.set_request_id("b");
  ASSERT_TRUE(stream->Write(request));
  request.set_request_id("bad");
  request.set_op("nothing_like_it");
  ASSERT_TRUE(stream->Write(request));
  v1::BatchResponse response;
  ASSERT_TRUE(stream->Read(&response));
  ASSERT_TRUE(response.has_error());
  EXPECT_EQ(response.error().request_id(), "bad");
  EXPECT_EQ(response.error().code(), grpc::StatusCode::NOT_FOUND);
  ASSERT_TRUE(engine_.AwaitHeld(2));
  engine_.Release(1);
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.response().request_id(), "b");
  engine_.Release(0);
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_EQ(response.response().request_id(), "a");
  EXPECT_EQ(response.response().outputs().at("o").data().size(), 24 * sizeof(float));
  stream->WritesDone();
  EXPECT_FALSE(stream->Read(&response));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(OperatorsServiceTest, BatchBoundsCallsUnderWay) {
  engine_.Hold(true);
  grpc::ClientContext context;
  auto stream = operators_->EvaluateBatch(&context);
  v1::EvaluateRequest request = RecurrenceCall().ToNative();
  constexpr int kCalls = 12;
  for (int i = 0; i < kCalls; ++i) {
    request.set_request_id(absl::StrCat(i));
    ASSERT_TRUE(stream->Write(request));
  }
  stream->WritesDone();
  ASSERT_TRUE(engine_.AwaitHeld(4));
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_EQ(engine_.held(), 4u);  // The fixture's limit.
  std::set<std::string> answered;
  for (int i = 0; i < kCalls; ++i) {
    ASSERT_TRUE(engine_.AwaitHeld(1));
    engine_.Release();
    v1::BatchResponse response;
    ASSERT_TRUE(stream->Read(&response));
    answered.insert(response.response().request_id());
  }
  EXPECT_EQ(answered.size(), static_cast<size_t>(kCalls));
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(OperatorsServiceTest, BatchOfNothingEnds) {
  grpc::ClientContext context;
  auto stream = operators_->EvaluateBatch(&context);
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(OperatorsServiceTest, CancelledBatchCancelsItsCalls) {
  engine_.Hold(true);
  grpc::ClientContext context;
  auto stream = operators_->EvaluateBatch(&context);
  ASSERT_TRUE(stream->Write(RecurrenceCall().ToNative()));
  ASSERT_TRUE(engine_.AwaitHeld(1));
  const std::shared_ptr<CancelToken> cancel = engine_.held_call(0).cancel;
  context.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  for (int i = 0; i < 1000 && !cancel->cancelled(); ++i) absl::SleepFor(absl::Milliseconds(10));
  EXPECT_TRUE(cancel->cancelled());
  engine_.Release();
}

// Answers come from another thread while streams end for every reason that there is.
TEST_F(OperatorsServiceTest, BatchesMayBeCutAtAnyMoment) {
  engine_.Hold(true);
  std::atomic<bool> over = false;
  std::thread answers([&] {
    while (!over || engine_.held() > 0) {
      if (const size_t held = engine_.held(); held > 0) {
        engine_.Release(held - 1);
      } else {
        std::this_thread::yield();
      }
    }
  });
  const auto seed = std::random_device()();
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  constexpr int kClients = 4;
  std::vector<std::thread> clients;
  clients.reserve(kClients);
  for (int c = 0; c < kClients; ++c) {
    clients.emplace_back([&, random = std::mt19937(seed + c)]() mutable {
      const v1::EvaluateRequest request = RecurrenceCall().ToNative();
      for (int stream = 0; stream < 50; ++stream) {
        grpc::ClientContext context;
        auto calls = operators_->EvaluateBatch(&context);
        const unsigned writes = random() % 9, reads = random() % 9;
        for (unsigned i = 0; i < writes && calls->Write(request); ++i) {
        }
        const bool ended = random() % 2 == 0;
        if (ended) calls->WritesDone();
        v1::BatchResponse response;
        for (unsigned i = 0; i < std::min(writes, reads) && calls->Read(&response); ++i) {
          EXPECT_TRUE(response.has_response());
        }
        if (random() % 4 != 0) context.TryCancel();
        if (!ended) calls->WritesDone();
        while (calls->Read(&response)) {
        }
        calls->Finish();
      }
    });
  }
  for (std::thread& client : clients) client.join();
  over = true;
  answers.join();
  engine_.Hold(false);
  v1::EvaluateResponse response;
  EXPECT_TRUE(Evaluate(RecurrenceCall().ToNative(), &response).ok());
}

TEST_F(OperatorsServiceTest, CompareReportsOnGivenInputs) {
  v1::CompareRequest request;
  *request.mutable_call() = RecurrenceCall().ToNative();
  v1::CompareResponse response;
  grpc::ClientContext context;
  const grpc::Status status = operators_->Compare(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.kernel(), "composed");
  EXPECT_TRUE(response.within_tolerance());
  EXPECT_TRUE(response.bitwise_repeatable());
  ASSERT_EQ(response.outputs_size(), 3);
  EXPECT_EQ(response.outputs(0).output(), "o");
}

TEST_F(OperatorsServiceTest, CompareDrawsInputs) {
  v1::CompareRequest request;
  request.mutable_call()->set_op("toy_recurrence");
  request.mutable_random()->set_seed(7);
  request.mutable_random()->set_dtype(v1::BFLOAT16);
  (*request.mutable_random()->mutable_dims())["T"] = 33;
  v1::CompareResponse response;
  grpc::ClientContext context;
  const grpc::Status status = operators_->Compare(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.tolerance(), 1e-2);
}

TEST_F(OperatorsServiceTest, CompareRefusesWhatCannotBe) {
  const auto code = [this](const v1::CompareRequest& request) {
    v1::CompareResponse response;
    grpc::ClientContext context;
    return operators_->Compare(&context, request, &response).error_code();
  };
  v1::CompareRequest request;
  request.mutable_call()->set_op("toy_recurrence");
  (*request.mutable_random()->mutable_dims())["T"] = int64_t{1} << 40;
  EXPECT_EQ(code(request), grpc::StatusCode::INVALID_ARGUMENT);
  (*request.mutable_random()->mutable_dims())["T"] = -1;
  EXPECT_EQ(code(request), grpc::StatusCode::INVALID_ARGUMENT);
  (*request.mutable_random()->mutable_dims())["T"] = 2;
  request.mutable_random()->set_dtype(v1::INT32);
  EXPECT_EQ(code(request), grpc::StatusCode::INVALID_ARGUMENT);
  *request.mutable_call() = RecurrenceCall().ToNative();
  EXPECT_EQ(code(request), grpc::StatusCode::INVALID_ARGUMENT);  // Inputs, and random ones.
  request.clear_random();
  request.mutable_call()->add_outputs("o");
  EXPECT_EQ(code(request), grpc::StatusCode::INVALID_ARGUMENT);
}

// A call whose answer is larger than its request: many sequences, and one token in all of them.
TestCall ManyStates(int32_t sequences) {
  TestCall call = RecurrenceCall(1);
  std::vector<int32_t> offsets(static_cast<size_t>(sequences) + 1, 0);
  offsets.back() = 1;
  call.inputs["cu_seqlens"] = Values(std::vector<int64_t>{sequences + 1}, offsets);
  return call;
}

class SmallMessagesTest : public RpcFixture {
 protected:
  SmallMessagesTest() : RpcFixture({.max_message_bytes = 4096}) {}
};

TEST_F(SmallMessagesTest, AnswersThatAreTooLargeSaySo) {
  grpc::ClientContext context;
  v1::EvaluateResponse response;
  const grpc::Status status = operators_->Evaluate(&context, ManyStates(200).ToNative(), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("EvaluateStream"));
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto reason = trailers.find("attnd-reason");
  ASSERT_NE(reason, trailers.end());
  EXPECT_EQ(reason->second, "answer-too-large");
}

TEST_F(SmallMessagesTest, ABatchGoesOnAfterAnAnswerThatIsTooLarge) {
  grpc::ClientContext context;
  auto stream = operators_->EvaluateBatch(&context);
  for (const int32_t sequences : {200, 2}) {
    v1::EvaluateRequest request = ManyStates(sequences).ToNative();
    request.set_request_id(absl::StrCat(sequences));
    ASSERT_TRUE(stream->Write(request));
  }
  stream->WritesDone();
  v1::BatchResponse large;
  v1::BatchResponse small;
  ASSERT_TRUE(stream->Read(&large));
  ASSERT_TRUE(stream->Read(&small));
  if (large.has_response()) std::swap(large, small);
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_EQ(large.error().request_id(), "200");
  EXPECT_EQ(large.error().code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(large.error().reason(), "answer-too-large");
  EXPECT_EQ(small.response().request_id(), "2");
}

TEST_F(SmallMessagesTest, AStreamOfInferencesGoesOnAfterAnAnswerThatIsTooLarge) {
  grpc::ClientContext context;
  auto stream = inference_->ModelStreamInfer(&context);
  for (const int32_t sequences : {200, 2}) {
    ASSERT_TRUE(stream->Write(ManyStates(sequences).ToInference()));
  }
  stream->WritesDone();
  inference::ModelStreamInferResponse answer;
  ASSERT_TRUE(stream->Read(&answer));
  EXPECT_THAT(answer.error_message(), HasSubstr("fewer outputs"));
  ASSERT_TRUE(stream->Read(&answer));
  EXPECT_EQ(answer.error_message(), "");
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(SmallMessagesTest, AStepWhoseAnswerIsTooLargeHasNotHappened) {
  const auto step = [&](int32_t sequences, bool start, inference::ModelInferResponse& response) {
    inference::ModelInferRequest request = ManyStates(sequences).ToInference();
    (*request.mutable_parameters())["sequence_id"].set_int64_param(7);
    (*request.mutable_parameters())["sequence_start"].set_bool_param(start);
    return Infer(request, &response);
  };
  inference::ModelInferResponse response;
  EXPECT_EQ(step(200, true, response).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  // It did not begin.
  EXPECT_THAT(step(2, false, response).error_message(), HasSubstr("sequence_start"));
}

}  // namespace
}  // namespace attnd
