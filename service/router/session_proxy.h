// attnd.v1.Sessions and attnd.v1.Models of a router: every call goes to a worker.
#ifndef ATTND_SERVICE_ROUTER_SESSION_PROXY_H_
#define ATTND_SERVICE_ROUTER_SESSION_PROXY_H_

#include <grpcpp/impl/codegen/service_type.h>

#include <memory>

#include "service/router/session_workers.h"

namespace attnd {

// `workers` must outlive the service.
std::unique_ptr<grpc::Service> MakeSessionsProxy(SessionWorkers& workers);
std::unique_ptr<grpc::Service> MakeModelsProxy(SessionWorkers& workers);

}  // namespace attnd

#endif  // ATTND_SERVICE_ROUTER_SESSION_PROXY_H_
