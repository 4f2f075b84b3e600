// The gRPC server of a process: its services, health, reflection and limits.
#ifndef ATTND_SERVICE_GRPC_SERVER_H_
#define ATTND_SERVICE_GRPC_SERVER_H_

#include <grpcpp/server.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "service/metrics/rpc_metrics.h"
#include "service/spare_threads.h"

namespace attnd {

struct GrpcServerOptions {
  std::string address = "0.0.0.0";
  int port = 8001;     // 0: a free one.
  std::string socket;  // Absolute path of a Unix socket to listen on as well; empty: none.
  int64_t max_message_bytes = int64_t{64} << 20;
  int64_t max_buffer_bytes = int64_t{8} << 30;
  int max_streams = 1024;
  SpareThreads* spare_threads = nullptr;  // Told of the load; outlives the server. May be null.
};

class GrpcServer {
 public:
  // The services and metrics must outlive the server. UNAVAILABLE if the port or the socket is
  // taken: two servers never share one. A socket that a server left behind when it died is not
  // taken.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(
      const GrpcServerOptions& options, RpcMetrics& metrics,
      const std::vector<grpc::Service*>& services, std::vector<std::string> health_names);
  ~GrpcServer();

  int port() const { return port_; }

  // What grpc.health.v1 tells for "" and for every service by its name. For "live" it tells
  // SERVING from the start, whatever is set: who answers lives.
  void SetServing(bool serving);

  // Ends every connection, and with it the RPCs still under way: clients see them as UNAVAILABLE.
  // Returns when all have ended.
  void Shutdown();

  // The same, but ends RPCs with a status, and waits no longer than `patience` for their handlers.
  // All that is left to do then is to end the process.
  void Abandon(absl::Duration patience);

 private:
  explicit GrpcServer(std::vector<std::string> health_names)
      : health_names_(std::move(health_names)) {}

  const std::vector<std::string> health_names_;
  SpareThreads* spare_threads_ = nullptr;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
  std::string socket_;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_GRPC_SERVER_H_
