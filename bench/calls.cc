#include "bench/calls.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <random>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"

namespace attnd::bench {
namespace {

// A unary call in flight: everything that must live until its callback.
struct Flight {
  grpc::ClientContext context;
  grpc::ByteBuffer response;
};

// Calls of any method with the same bytes. Answers are not parsed: the load costs the machine as
// much for every service, so that a comparison of two is one of their servers.
StartCall Calls(const std::string& target, const std::string& method, const std::string& bytes) {
  auto stub = std::make_shared<grpc::GenericStub>(Connect(target));
  const grpc::Slice slice(bytes);
  auto request = std::make_shared<const grpc::ByteBuffer>(&slice, 1);
  return [stub, request, method](std::function<void(bool)> done) {
    auto flight = std::make_shared<Flight>();
    stub->UnaryCall(
        &flight->context, method, {}, request.get(), &flight->response,
        [flight, done = std::move(done)](const grpc::Status& status) { done(status.ok()); });
  };
}

// One message up, the same down, and again.
class EchoStream final : public grpc::ClientBidiReactor<Blob, Blob> {
 public:
  EchoStream(const std::string& target, const std::string& bytes)
      : stub_(Echo::NewStub(Connect(target))) {
    up_.set_data(bytes);
    stub_->async()->Stream(&context_, this);
    StartRead(&down_);
    StartCall();
  }
  ~EchoStream() override {
    context_.TryCancel();
    ended_.WaitForNotification();
  }

  void Send(std::function<void(bool)> done) {
    absl::MutexLock lock(&mu_);
    done_ = std::move(done);
    due_ = 2;
    StartWrite(&up_);
  }

  void OnReadDone(bool ok) override { Step(ok, true); }
  void OnWriteDone(bool ok) override { Step(ok, false); }
  void OnDone(const grpc::Status&) override { ended_.Notify(); }

 private:
  // A call is over when it was written and answered, in whichever order that is told.
  void Step(bool ok, bool read) {
    std::function<void(bool)> done;
    {
      absl::MutexLock lock(&mu_);
      if (due_ > 0 && --due_ == 0) done = std::exchange(done_, nullptr);
    }
    if (read && ok) StartRead(&down_);
    if (done) done(ok);
  }

  const std::unique_ptr<Echo::Stub> stub_;
  grpc::ClientContext context_;
  Blob up_, down_;
  absl::Mutex mu_;
  int due_ ABSL_GUARDED_BY(mu_) = 0;
  std::function<void(bool)> done_ ABSL_GUARDED_BY(mu_);
  absl::Notification ended_;
};

}  // namespace

std::shared_ptr<grpc::Channel> Connect(const std::string& target) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments);
}

v1::Tensor RandomTensor(std::vector<int64_t> shape) {
  static std::mt19937 random(7);
  std::normal_distribution<float> normal;
  int64_t count = 1;
  for (int64_t size : shape) count *= size;
  std::string bytes(static_cast<size_t>(count) * sizeof(float), '\0');
  auto* values = reinterpret_cast<float*>(bytes.data());
  std::generate(values, values + count, [&] { return normal(random); });
  v1::Tensor tensor;
  tensor.set_dtype(v1::FLOAT32);
  tensor.mutable_shape()->Add(shape.begin(), shape.end());
  tensor.set_data(std::move(bytes));
  return tensor;
}

v1::EvaluateRequest SmallRequest() {
  v1::EvaluateRequest request;
  request.set_op("softmax_attention");
  for (const char* name : {"q", "k", "v"}) {
    (*request.mutable_inputs())[name] = RandomTensor({1, 16, 2, 16});
  }
  (*request.mutable_attributes())["causal"].set_bool_value(true);
  return request;
}

StartCall EvaluateCalls(const std::string& target, const v1::EvaluateRequest& request) {
  return Calls(target, "/attnd.v1.Operators/Evaluate", request.SerializeAsString());
}

StartCall EchoCalls(const std::string& target, const std::string& bytes) {
  Blob blob;
  blob.set_data(bytes);
  return Calls(target, "/attnd.bench.Echo/Unary", blob.SerializeAsString());
}

StartCall EchoStreamCalls(const std::string& target, const std::string& bytes) {
  auto stream = std::make_shared<EchoStream>(target, bytes);
  return [stream](std::function<void(bool)> done) { stream->Send(std::move(done)); };
}

}  // namespace attnd::bench
