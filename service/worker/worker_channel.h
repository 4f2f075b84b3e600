// The connection of a router to a worker.
#ifndef ATTND_SERVICE_WORKER_WORKER_CHANNEL_H_
#define ATTND_SERVICE_WORKER_WORKER_CHANNEL_H_

#include <grpcpp/channel.h>

#include <memory>
#include <string>

#include "absl/time/time.h"

namespace attnd {

// Its own connection, made anew within these times when it broke; a machine that vanishes is
// noticed by pings. Calls fail at once while there is none.
std::shared_ptr<grpc::Channel> MakeWorkerChannel(
    const std::string& target, absl::Duration min_backoff = absl::Milliseconds(100),
    absl::Duration max_backoff = absl::Seconds(1));

}  // namespace attnd

#endif  // ATTND_SERVICE_WORKER_WORKER_CHANNEL_H_
