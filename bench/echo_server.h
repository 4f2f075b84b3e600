// A bare gRPC callback server that sends back what it gets.
#ifndef ATTND_BENCH_ECHO_SERVER_H_
#define ATTND_BENCH_ECHO_SERVER_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

namespace attnd::bench {

struct EchoServer {
  std::unique_ptr<grpc::Service> service;
  std::unique_ptr<grpc::Server> server;
  int port = 0;
};

// On a free loopback port, and on the Unix socket `socket` unless that is empty.
EchoServer StartEchoServer(const std::string& socket);

}  // namespace attnd::bench

#endif  // ATTND_BENCH_ECHO_SERVER_H_
