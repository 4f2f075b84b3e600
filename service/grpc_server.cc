#include "service/grpc_server.h"

#include <dirent.h>
#include <grpc/support/log.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <limits>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "service/log.h"

namespace attnd {
namespace {

// What gRPC has to say comes as lines of the log, like everything else.
void LogFromGrpc(gpr_log_func_args* args) {
  Log(args->severity == GPR_LOG_SEVERITY_ERROR ? LogLevel::kWarn : LogLevel::kDebug, "gRPC",
      {{"text", args->message}});
}

// Whether a connection was accepted on the port or on the socket.
bool IsOf(const sockaddr_storage& address, int port, const std::string& socket) {
  if (address.ss_family == AF_UNIX) {
    return !socket.empty() && socket == reinterpret_cast<const sockaddr_un&>(address).sun_path;
  }
  // The port lies at the same place in both families.
  static_assert(offsetof(sockaddr_in, sin_port) == offsetof(sockaddr_in6, sin6_port));
  return (address.ss_family == AF_INET || address.ss_family == AF_INET6) &&
         ntohs(reinterpret_cast<const sockaddr_in&>(address).sin_port) == port;
}

// Connections that were accepted: nothing more is read from them, and their end follows what was
// written.
void EndConnections(int port, const std::string& socket) {
  const std::unique_ptr<DIR, int (*)(DIR*)> files(opendir("/proc/self/fd"), closedir);
  if (files == nullptr) return;
  while (const dirent* entry = readdir(files.get())) {
    int file = -1;
    int listens = 0;
    socklen_t size = sizeof(listens);
    if (!absl::SimpleAtoi(entry->d_name, &file) ||
        getsockopt(file, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 || listens != 0) {
      continue;
    }
    sockaddr_storage address = {};
    size = sizeof(address);
    if (getsockname(file, reinterpret_cast<sockaddr*>(&address), &size) != 0) continue;
    if (!IsOf(address, port, socket)) continue;
    shutdown(file, SHUT_RDWR);
  }
}

// Whether somebody listens there. gRPC binds a path whoever has it.
bool SocketTaken(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) return false;
  path.copy(address.sun_path, path.size());
  const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (probe < 0) return false;
  const bool taken =
      connect(probe, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  close(probe);
  return taken;
}

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(
    const GrpcServerOptions& options, RpcMetrics& metrics,
    const std::vector<grpc::Service*>& services, std::vector<std::string> health_names) {
  gpr_set_log_function(LogFromGrpc);
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  std::unique_ptr<GrpcServer> made(new GrpcServer(std::move(health_names)));
  made->socket_ = options.socket;

  const std::string address = absl::StrCat(options.address, ":", options.port);
  // Room for what surrounds the tensors.
  const auto message = static_cast<int>(
      std::min<int64_t>(options.max_message_bytes, std::numeric_limits<int>::max()));
  grpc::ResourceQuota quota("attnd");
  quota.Resize(static_cast<size_t>(options.max_buffer_bytes));

  grpc::ServerBuilder builder;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &made->port_);
  int socket_port = 1;
  if (!options.socket.empty()) {
    if (SocketTaken(options.socket)) {
      return absl::UnavailableError(
          absl::StrCat("cannot listen on unix:", options.socket, " (gRPC): another server does"));
    }
    builder.AddListeningPort(absl::StrCat("unix:", options.socket),
                             grpc::InsecureServerCredentials(), &socket_port);
  }
  builder.SetMaxReceiveMessageSize(message);
  builder.SetMaxSendMessageSize(message);
  builder.SetResourceQuota(quota);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.max_streams);
  // Pings to a silent client, and leave for clients to send theirs.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1000);
  std::vector<std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>> interceptors;
  interceptors.push_back(metrics.MakeInterceptorFactory());
  if (options.spare_threads != nullptr) {
    interceptors.push_back(options.spare_threads->MakeInterceptorFactory());
  }
  builder.experimental().SetInterceptorCreators(std::move(interceptors));
  for (grpc::Service* service : services) builder.RegisterService(service);

  made->server_ = builder.BuildAndStart();
  if (made->server_ == nullptr || made->port_ == 0 || socket_port == 0) {
    const bool port = made->port_ == 0 || options.socket.empty();
    return absl::UnavailableError(
        port ? absl::StrCat("cannot listen on ", address, " (gRPC): is the port taken?")
             : absl::StrCat("cannot listen on unix:", options.socket,
                            " (gRPC): may this user create files there?"));
  }
  made->SetServing(false);
  made->server_->GetHealthCheckService()->SetServingStatus("live", true);
  if (options.spare_threads != nullptr) {
    made->spare_threads_ = options.spare_threads;
    options.spare_threads->Start(made->server_->InProcessChannel({}));
  }
  return made;
}

GrpcServer::~GrpcServer() {
  if (server_ != nullptr) Shutdown();
}

void GrpcServer::SetServing(bool serving) {
  grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
  health->SetServingStatus("", serving);
  for (const std::string& name : health_names_) health->SetServingStatus(name, serving);
}

void GrpcServer::Shutdown() {
  if (spare_threads_ != nullptr) spare_threads_->Stop();
  // A server of gRPC's that shuts down ends calls that come in the meantime as CANCELLED, which
  // tells nobody to repeat them. A connection that ends is UNAVAILABLE.
  EndConnections(port_, socket_);
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
}

void GrpcServer::Abandon(absl::Duration patience) {
  if (spare_threads_ != nullptr) spare_threads_->Busy();
  auto ended = std::make_shared<absl::Notification>();
  std::thread([server = server_.get(), ended] {
    server->Shutdown(std::chrono::system_clock::now());
    ended->Notify();
  }).detach();
  ended->WaitForNotificationWithTimeout(patience);
}

}  // namespace attnd
