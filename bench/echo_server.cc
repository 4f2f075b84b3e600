#include "bench/echo_server.h"

#include <cstdlib>
#include <utility>

#include "bench/echo.grpc.pb.h"

namespace attnd::bench {
namespace {

// One message in flight each way, as the service under test does it.
class EchoStream final : public grpc::ServerBidiReactor<Blob, Blob> {
 public:
  EchoStream() { StartRead(&blob_); }
  void OnReadDone(bool ok) override {
    if (ok) {
      StartWrite(&blob_);
    } else {
      Finish(grpc::Status::OK);
    }
  }
  void OnWriteDone(bool ok) override {
    if (ok) {
      StartRead(&blob_);
    } else {
      Finish(grpc::Status::CANCELLED);
    }
  }
  void OnDone() override { delete this; }  // The library's contract: a reactor owns itself.

 private:
  Blob blob_;
};

class EchoService final : public Echo::CallbackService {
  grpc::ServerUnaryReactor* Unary(grpc::CallbackServerContext* context, const Blob* request,
                                  Blob* response) override {
    response->set_data(request->data());
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  grpc::ServerBidiReactor<Blob, Blob>* Stream(grpc::CallbackServerContext*) override {
    return std::make_unique<EchoStream>().release();
  }
};

}  // namespace

EchoServer StartEchoServer(const std::string& socket) {
  EchoServer echo;
  echo.service = std::make_unique<EchoService>();
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &echo.port);
  if (!socket.empty()) {
    builder.AddListeningPort("unix:" + socket, grpc::InsecureServerCredentials());
  }
  builder.SetMaxReceiveMessageSize(-1);
  builder.RegisterService(echo.service.get());
  echo.server = builder.BuildAndStart();
  if (echo.server == nullptr) std::abort();
  return echo;
}

}  // namespace attnd::bench
