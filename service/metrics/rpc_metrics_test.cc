#include "service/metrics/rpc_metrics.h"

#include <gmock/gmock.h>
#include <google/protobuf/descriptor.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <memory>

#include "absl/strings/str_cat.h"
#include "attnd/v1/operators.grpc.pb.h"
#include "service/grpc_server.h"
#include "service/rpc/language_models.h"
#include "service/rpc/services.h"
#include "service/rpc/testing/direct_engine.h"
#include "service/rpc/testing/test_call.h"

namespace attnd {
namespace {

class RpcMetricsTest : public ::testing::Test {
 protected:
  RpcMetricsTest() {
    services_.push_back(MakeOperatorsService(engine_, {}));
    services_.push_back(MakeInferenceService(engine_, sequences_, nullptr, {}, "test"));
    std::vector<grpc::Service*> services;
    for (const auto& service : services_) services.push_back(service.get());
    absl::StatusOr<std::unique_ptr<GrpcServer>> server =
        GrpcServer::Start({.address = "127.0.0.1", .port = 0}, metrics_, services, {});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    channel_ = grpc::CreateChannel(absl::StrCat("127.0.0.1:", server_->port()),
                                   grpc::InsecureChannelCredentials());
  }

  // The sum over a family's samples once it is `expected`, or what it is after ten seconds: an RPC
  // is counted a moment after its client has the answer.
  double Await(const std::string& family, double expected) {
    double value = 0;
    for (int i = 0; i < 1000; ++i) {
      value = 0;
      for (const prometheus::MetricFamily& found : registry_.Collect()) {
        if (found.name != family) continue;
        for (const prometheus::ClientMetric& sample : found.metric) {
          value += sample.counter.value + sample.gauge.value;
        }
      }
      if (value == expected) break;
      absl::SleepFor(absl::Milliseconds(10));
    }
    return value;
  }

  DirectEngine engine_;
  SequenceStore sequences_{SequenceLimits()};
  prometheus::Registry registry_;
  RpcMetrics metrics_{registry_, TakesBytes};
  std::vector<std::unique_ptr<grpc::Service>> services_;
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(RpcMetricsTest, CountsMessagesByTheirBytes) {
  const auto stub = v1::Operators::NewStub(channel_);
  const v1::EvaluateRequest request = RecurrenceCall(1000).ToNative();
  v1::EvaluateResponse response;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub->Evaluate(&context, request, &response).ok());
  }
  double received = static_cast<double>(request.ByteSizeLong());
  double sent = static_cast<double>(response.ByteSizeLong());
  EXPECT_EQ(Await("attnd_rpc_received_bytes_total", received), received);
  EXPECT_EQ(Await("attnd_rpc_sent_bytes_total", sent), sent);

  v1::ListRequest list;
  list.set_filter("toy");
  v1::ListResponse operators;
  {
    grpc::ClientContext context;
    ASSERT_TRUE(stub->List(&context, list, &operators).ok());
  }
  received += static_cast<double>(list.ByteSizeLong());
  sent += static_cast<double>(operators.ByteSizeLong());
  EXPECT_EQ(Await("attnd_rpc_received_bytes_total", received), received);
  EXPECT_EQ(Await("attnd_rpc_sent_bytes_total", sent), sent);
  EXPECT_EQ(Await("attnd_rpc_requests_total", 2), 2);
  EXPECT_EQ(Await("attnd_rpc_in_flight", 0), 0);
}

TEST_F(RpcMetricsTest, MethodsThatDoNotExistShareALabel) {
  grpc::GenericStub stub(channel_);
  const grpc::ByteBuffer request;
  constexpr int kCalls = 20;
  for (int i = 0; i < kCalls; ++i) {
    grpc::ClientContext context;
    grpc::CompletionQueue queue;
    grpc::ByteBuffer answer;
    grpc::Status status;
    const auto call = stub.PrepareUnaryCall(
        &context, absl::StrCat(i % 2 == 0 ? "/attnd.v1.Operators/Nope" : "/no.Service/List", i),
        request, &queue);
    call->StartCall();
    call->Finish(&answer, &status, nullptr);
    void* tag = nullptr;
    bool ok = false;
    ASSERT_TRUE(queue.Next(&tag, &ok));
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  }
  EXPECT_EQ(Await("attnd_rpc_requests_total", kCalls), kCalls);
  for (const prometheus::MetricFamily& family : registry_.Collect()) {
    if (family.name != "attnd_rpc_requests_total") continue;
    ASSERT_EQ(family.metric.size(), 1u);
    EXPECT_EQ(family.metric[0].label[1].value, "unknown");
  }
}

TEST_F(RpcMetricsTest, ClientsThatLeaveTheirHealthWatchFailNothing) {
  grpc::GenericStub stub(channel_);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  void* tag = nullptr;
  bool ok = false;
  const auto call = stub.PrepareCall(&context, "/grpc.health.v1.Health/Watch", &queue);
  call->StartCall(nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  const grpc::Slice empty;
  call->Write(grpc::ByteBuffer(&empty, 1), nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  grpc::ByteBuffer answer;
  call->Read(&answer, nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok) && ok);
  context.TryCancel();
  grpc::Status status;
  call->Finish(&status, nullptr);
  ASSERT_TRUE(queue.Next(&tag, &ok));
  EXPECT_EQ(Await("attnd_rpc_requests_total", 1), 1);
  for (const prometheus::MetricFamily& family : registry_.Collect()) {
    if (family.name != "attnd_rpc_requests_total") continue;
    ASSERT_EQ(family.metric.size(), 1u);
    EXPECT_EQ(family.metric[0].label[0].value, "CANCELLED");
  }
}

// Which methods take bytes is written down once more for the metrics, which would read a message as
// bytes, or bytes as a message, where that is wrong.
TEST_F(RpcMetricsTest, EveryMethodsRequestIsMeasured) {
  // A field that no message has: 2 bytes of tag, 1 of length, 5.
  const std::string bytes = absl::StrCat("\xba\x3e\x05", "bytes");
  const grpc::Slice slice(bytes);
  grpc::GenericStub stub(channel_);
  double received = 0;
  int methods = 0;
  for (const char* name :
       {"attnd.v1.Operators", "inference.GRPCInferenceService", "grpc.health.v1.Health"}) {
    std::vector<std::string> paths;
    const google::protobuf::ServiceDescriptor* service =
        google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(name);
    if (service == nullptr) {
      ASSERT_STREQ(name, "grpc.health.v1.Health");  // gRPC's own, without a descriptor.
      paths = {"/grpc.health.v1.Health/Check"};
    } else {
      for (int i = 0; i < service->method_count(); ++i) {
        paths.push_back(absl::StrCat("/", name, "/", service->method(i)->name()));
      }
    }
    for (const std::string& path : paths) {
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
      grpc::CompletionQueue queue;
      const auto call = stub.PrepareCall(&context, path, &queue);
      const auto done = [&queue] {
        void* tag = nullptr;
        bool ok = false;
        return queue.Next(&tag, &ok) && ok;
      };
      call->StartCall(nullptr);
      ASSERT_TRUE(done());
      call->Write(grpc::ByteBuffer(&slice, 1), nullptr);
      ASSERT_TRUE(done());
      call->WritesDone(nullptr);
      done();
      grpc::ByteBuffer answer;
      do {
        call->Read(&answer, nullptr);
      } while (done());
      grpc::Status status;
      call->Finish(&status, nullptr);
      ASSERT_TRUE(done());
      EXPECT_NE(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED) << path;
      received += static_cast<double>(bytes.size());
      ++methods;
      ASSERT_EQ(Await("attnd_rpc_received_bytes_total", received), received) << path;
    }
  }
  EXPECT_EQ(Await("attnd_rpc_requests_total", methods), methods);
}

}  // namespace
}  // namespace attnd
