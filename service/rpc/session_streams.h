// Streams of the services of sessions and models. Each owns itself until gRPC is done with it; the
// manager must outlive it.
#ifndef ATTND_SERVICE_RPC_SESSION_STREAMS_H_
#define ATTND_SERVICE_RPC_SESSION_STREAMS_H_

#include <grpcpp/support/server_callback.h>

#include "attnd/v1/models.pb.h"
#include "attnd/v1/sessions.pb.h"
#include "service/session/session_manager.h"

namespace attnd {

// A client that reads slowly makes its decode pause, one that leaves ends it.
grpc::ServerWriteReactor<v1::DecodeEvent>* StartDecode(SessionManager& manager,
                                                       const v1::DecodeRequest& request);
grpc::ServerWriteReactor<v1::DecodeEvent>* StartGenerate(SessionManager& manager,
                                                         const v1::GenerateRequest& request);
grpc::ServerBidiReactor<v1::ConverseRequest, v1::ConverseEvent>* StartConverse(
    SessionManager& manager);
grpc::ServerWriteReactor<v1::FileChunk>* StartExport(SessionManager& manager,
                                                     const v1::ExportRequest& request);
// `response` is gRPC's, until the call ends.
grpc::ServerReadReactor<v1::ImportChunk>* StartImport(SessionManager& manager,
                                                      v1::Session* response);

}  // namespace attnd

#endif  // ATTND_SERVICE_RPC_SESSION_STREAMS_H_
