// The client against a service of the test's own, which answers as the protocol says or breaks it.
#include "attnd/client.h"

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <atomic>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "attnd/v1/operators.grpc.pb.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace attnd::client {
namespace {

using ::testing::HasSubstr;

// Gives back every input as an output. Some names of operators do something else.
class Echo final : public v1::Operators::Service {
 public:
  std::atomic<int> unary = 0;
  std::atomic<int> streams = 0;

  grpc::Status Evaluate(grpc::ServerContext* context, const v1::EvaluateRequest* request,
                        v1::EvaluateResponse* response) override {
    ++unary;
    if (request->op() == "refuse") {
      return {grpc::StatusCode::INVALID_ARGUMENT, "refuse: q: given one, expected another"};
    }
    if (request->op() == "grows") {
      context->AddTrailingMetadata("attnd-reason", "answer-too-large");
      return {grpc::StatusCode::RESOURCE_EXHAUSTED, "use EvaluateStream"};
    }
    if (request->op() == "flaky" && unary < 3) return {grpc::StatusCode::UNAVAILABLE, "draining"};
    Answer(*request, *response);
    if (request->op() == "short") response->mutable_outputs()->at("q").mutable_data()->pop_back();
    return grpc::Status::OK;
  }

  grpc::Status EvaluateStream(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<v1::EvaluateChunk, v1::EvaluateChunk>* stream) override {
    ++streams;
    v1::EvaluateChunk chunk;
    if (!stream->Read(&chunk) || !chunk.has_request()) {
      return {grpc::StatusCode::INVALID_ARGUMENT, "no header"};
    }
    v1::EvaluateRequest request = chunk.request();
    if (request.op() == "refuse") return {grpc::StatusCode::INVALID_ARGUMENT, "refused early"};
    while (stream->Read(&chunk)) {
      std::string& data = *request.mutable_inputs()->at(chunk.data().tensor()).mutable_data();
      if (chunk.data().offset() != data.size()) {
        return {grpc::StatusCode::INVALID_ARGUMENT, "out of order"};
      }
      data += chunk.data().bytes();
    }
    v1::EvaluateResponse response;
    Answer(request, response);
    v1::EvaluateChunk out;
    *out.mutable_response() = response;
    for (auto& [name, tensor] : *out.mutable_response()->mutable_outputs()) tensor.clear_data();
    stream->Write(out);
    for (const auto& [name, tensor] : response.outputs()) {
      const std::string& data = tensor.data();
      for (size_t offset = 0; offset < data.size(); offset += 700) {
        out.mutable_data()->set_tensor(name);
        out.mutable_data()->set_offset(request.op() == "gap" ? offset + 1 : offset);
        out.mutable_data()->set_bytes(data.substr(offset, 700));
        stream->Write(out);
        if (request.op() == "half") return grpc::Status::OK;
      }
    }
    return grpc::Status::OK;
  }

  grpc::Status EvaluateBatch(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<v1::BatchResponse, v1::EvaluateRequest>* stream) override {
    std::vector<v1::EvaluateRequest> requests;
    for (v1::EvaluateRequest request; stream->Read(&request);) requests.push_back(request);
    // The last comes first: order is the client's business.
    for (auto request = requests.rbegin(); request != requests.rend(); ++request) {
      if (request->op() == "drop") continue;
      v1::BatchResponse answer;
      if (request->op() == "refuse") {
        answer.mutable_error()->set_request_id(request->request_id());
        answer.mutable_error()->set_code(grpc::StatusCode::NOT_FOUND);
        answer.mutable_error()->set_message("no such operator");
      } else {
        Answer(*request, *answer.mutable_response());
      }
      stream->Write(answer);
    }
    return grpc::Status::OK;
  }

 private:
  static void Answer(const v1::EvaluateRequest& request, v1::EvaluateResponse& response) {
    *response.mutable_outputs() = request.inputs();
    response.set_kernel(absl::StrCat("k", request.attributes_size(), request.kernel()));
    response.set_device("test");
    response.set_request_id(request.request_id());
    response.set_batch_size(2);
    response.mutable_timing()->set_compute_us(7);
  }
};

class ClientTest : public ::testing::Test {
 protected:
  ClientTest() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("localhost:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(&service_);
    server_ = builder.BuildAndStart();
    address_ = absl::StrCat("localhost:", port);
  }
  ~ClientTest() override { server_->Shutdown(); }

  Client Connect(Options options = {}) {
    options.retry.initial_backoff = absl::Milliseconds(5);
    return Client::Connect(address_, options).value();
  }

  // 4000 bytes.
  static Call MakeCall(const std::string& op, float first = 0) {
    std::vector<float> values(1000);
    std::iota(values.begin(), values.end(), first);
    return {.op = op,
            .inputs = {{"empty", Tensor::Of<float>({0, 3}, {})},
                       {"q", Tensor::Of<float>({10, 100}, values)}}};
  }
  static Options Streaming() {
    Options options;
    options.stream_from_bytes = 4000;
    return options;
  }

  Echo service_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

void ExpectEcho(const absl::StatusOr<Result>& result, float first = 0) {
  ASSERT_TRUE(result.ok()) << result.status();
  const Tensor& q = result->outputs.at("q");
  EXPECT_EQ(q.DebugString(), "float32[10,100]");
  EXPECT_EQ(q.Values<float>()[999], first + 999);
  EXPECT_EQ(result->outputs.at("empty").DebugString(), "float32[0,3]");
  EXPECT_EQ(result->batch_size, 2u);
  EXPECT_EQ(result->compute, absl::Microseconds(7));
  EXPECT_EQ(result->device, "test");
}

TEST_F(ClientTest, SmallCallsGoInOneMessage) {
  Call call = MakeCall("echo");
  call.attributes = {{"a", true}, {"b", int64_t{3}}, {"c", std::vector<double>{1, 2}}};
  call.kernel = "x";
  const auto result = Connect().Evaluate(call);
  ExpectEcho(result);
  EXPECT_EQ(result->kernel, "k3x");
  EXPECT_EQ(service_.unary, 1);
}

TEST_F(ClientTest, LargeCallsAreStreamed) {
  ExpectEcho(Connect(Streaming()).Evaluate(MakeCall("echo")));
  EXPECT_EQ(service_.streams, 1);
  EXPECT_EQ(service_.unary, 0);
}

TEST_F(ClientTest, CallsWhoseAnswerIsTooLargeAreRepeatedAsAStream) {
  const Client client = Connect();
  ExpectEcho(client.Evaluate(MakeCall("grows")));
  EXPECT_EQ(service_.unary, 1);
  EXPECT_EQ(service_.streams, 1);
  // The next of its kind is not tried.
  ExpectEcho(client.Evaluate(MakeCall("grows", 1)), 1);
  EXPECT_EQ(service_.unary, 1);
  EXPECT_EQ(service_.streams, 2);
  ExpectEcho(Connect().EvaluateAsync(MakeCall("grows", 2)).get(), 2);
  EXPECT_EQ(service_.unary, 2);
  EXPECT_EQ(service_.streams, 3);
  ExpectEcho(client.Evaluate(MakeCall("echo")));
  EXPECT_EQ(service_.streams, 3);
}

TEST_F(ClientTest, SeveralChunksOfOneTensorKeepTheirPlace) {
  const std::vector<float> values(1 << 20, 3.0f);  // 4 MiB.
  Call call{.op = "echo", .inputs = {{"q", Tensor::Of<float>({1 << 20}, values)}}};
  const auto result = Connect(Streaming()).Evaluate(std::move(call));
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->outputs.at("q").Values<float>(), values);
}

TEST_F(ClientTest, ErrorsKeepCodeAndText) {
  for (const Options& options : {Options(), Streaming()}) {
    const auto result = Connect(options).Evaluate(MakeCall("refuse"));
    EXPECT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(result.status().message(), HasSubstr("refuse"));
  }
}

TEST_F(ClientTest, UnavailableIsRepeated) {
  ExpectEcho(Connect().Evaluate(MakeCall("flaky")));
  EXPECT_EQ(service_.unary, 3);
}

TEST_F(ClientTest, NoRepetitionWhereNoneIsWanted) {
  Options options;
  options.retry.attempts = 1;
  EXPECT_EQ(Connect(options).Evaluate(MakeCall("flaky")).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(service_.unary, 1);
}

TEST_F(ClientTest, AnswersThatBreakTheProtocolAreErrors) {
  EXPECT_EQ(Connect().Evaluate(MakeCall("short")).status().code(), absl::StatusCode::kInternal);
  for (const char* op : {"gap", "half"}) {
    EXPECT_EQ(Connect(Streaming()).Evaluate(MakeCall(op)).status().code(),
              absl::StatusCode::kInternal)
        << op;
  }
}

TEST_F(ClientTest, AsynchronousCallsEndWithoutTheirClient) {
  std::vector<std::future<absl::StatusOr<Result>>> results;
  {
    const Client unary = Connect();
    const Client stream = Connect(Streaming());
    for (int i = 0; i < 20; ++i) {
      results.push_back((i % 2 == 0 ? unary : stream).EvaluateAsync(MakeCall("echo", i)));
    }
  }
  for (size_t i = 0; i < results.size(); ++i) ExpectEcho(results[i].get(), i);
}

TEST_F(ClientTest, BatchAnswersComeInTheOrderOfCalls) {
  const auto results = Connect().EvaluateBatch(
      {MakeCall("echo", 1), MakeCall("refuse"), MakeCall("drop"), MakeCall("echo", 2)});
  ASSERT_EQ(results.size(), 4u);
  ExpectEcho(results[0], 1);
  EXPECT_EQ(results[1].status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(results[2].status().code(), absl::StatusCode::kInternal);
  ExpectEcho(results[3], 2);
  EXPECT_TRUE(Connect().EvaluateBatch({}).empty());
}

TEST_F(ClientTest, LargeCallsOfABatchAreStreamed) {
  Call small = MakeCall("refuse");
  small.inputs.erase("q");
  const auto results =
      Connect(Streaming())
          .EvaluateBatch({MakeCall("echo", 1), small, MakeCall("echo", 2), MakeCall("refuse")});
  ASSERT_EQ(results.size(), 4u);
  ExpectEcho(results[0], 1);
  EXPECT_EQ(results[1].status().code(), absl::StatusCode::kNotFound);
  ExpectEcho(results[2], 2);
  EXPECT_EQ(results[3].status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(service_.streams, 3);
}

TEST_F(ClientTest, ConnectingToNobodyIsUnavailable) {
  server_->Shutdown();
  Options options;
  options.connect_timeout = absl::Milliseconds(50);
  EXPECT_EQ(Client::Connect(address_, options).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(ClientTest, DeadlinesAreKept) {
  Call call = MakeCall("flaky");
  Options options;
  options.timeout = absl::Nanoseconds(1);
  EXPECT_EQ(Connect(options).Evaluate(call).status().code(), absl::StatusCode::kDeadlineExceeded);
  call.timeout = absl::Seconds(20);
  ExpectEcho(Connect(options).Evaluate(call));
}

TEST_F(ClientTest, HealthOfAServerWithoutHealthServiceIsAnError) {
  EXPECT_EQ(Connect().Health().code(), absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace attnd::client
