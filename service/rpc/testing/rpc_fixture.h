// Both services on a loopback port, in the test's own process.
#ifndef ATTND_SERVICE_RPC_TESTING_RPC_FIXTURE_H_
#define ATTND_SERVICE_RPC_TESTING_RPC_FIXTURE_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "attnd/v1/operators.grpc.pb.h"
#include "gtest/gtest.h"
#include "inference/grpc_service.grpc.pb.h"
#include "service/rpc/language_models.h"
#include "service/rpc/services.h"
#include "service/rpc/testing/direct_engine.h"
#include "service/rpc/testing/test_call.h"

namespace attnd {

class RpcFixture : public testing::Test {
 protected:
  explicit RpcFixture(const RpcLimits& limits = {}, const SequenceLimits& sequence_limits = {})
      : sequences_(sequence_limits),
        operators_service_(MakeOperatorsService(engine_, limits)),
        inference_service_(MakeInferenceService(engine_, sequences_, nullptr, limits, "test")) {
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.SetMaxReceiveMessageSize(static_cast<int>(limits.max_message_bytes));
    builder.RegisterService(operators_service_.get());
    builder.RegisterService(inference_service_.get());
    server_ = builder.BuildAndStart();
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    channel_ = grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", port),
                                         grpc::InsecureChannelCredentials(), arguments);
    operators_ = v1::Operators::NewStub(channel_);
    inference_ = inference::GRPCInferenceService::NewStub(channel_);
  }
  ~RpcFixture() override { server_->Shutdown(std::chrono::system_clock::now()); }

  grpc::Status Evaluate(const v1::EvaluateRequest& request, v1::EvaluateResponse* response) {
    grpc::ClientContext context;
    return operators_->Evaluate(&context, request, response);
  }
  grpc::Status Infer(const inference::ModelInferRequest& request,
                     inference::ModelInferResponse* response) {
    grpc::ClientContext context;
    return inference_->ModelInfer(&context, request, response);
  }

  DirectEngine engine_;
  SequenceStore sequences_;
  std::unique_ptr<grpc::Service> operators_service_;
  std::unique_ptr<grpc::Service> inference_service_;
  std::unique_ptr<grpc::Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Operators::Stub> operators_;
  std::unique_ptr<inference::GRPCInferenceService::Stub> inference_;
};

// The bytes of a named output of an inference answer; fails the test if there is none.
inline std::string RawOutput(const inference::ModelInferResponse& response,
                             const std::string& name) {
  for (int i = 0; i < response.outputs_size(); ++i) {
    if (response.outputs(i).name() == name) return response.raw_output_contents(i);
  }
  ADD_FAILURE() << "no output " << name;
  return "";
}

}  // namespace attnd

#endif  // ATTND_SERVICE_RPC_TESTING_RPC_FIXTURE_H_
