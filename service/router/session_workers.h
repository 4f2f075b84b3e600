// Which worker has which session, for a router that keeps nothing: the truth is with the workers.
//
// Every name ranks the workers in an order of its own (rendezvous hashing). A new session goes to
// the first; one that exists is looked for in that order, so that it is found where it is: at the
// first, at its parent's (forks), or where it was before the list of workers changed.
#ifndef ATTND_SERVICE_ROUTER_SESSION_WORKERS_H_
#define ATTND_SERVICE_ROUTER_SESSION_WORKERS_H_

#include <grpcpp/channel.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "attnd/v1/models.grpc.pb.h"
#include "attnd/v1/sessions.grpc.pb.h"
#include "inference/grpc_service.grpc.pb.h"

namespace attnd {

// A worker's services of sessions and models, by either protocol. Its calls fail at once while it
// cannot be reached.
struct SessionWorker {
  std::string name;  // "host:port"
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<v1::Sessions::Stub> sessions;
  std::unique_ptr<v1::Models::Stub> models;
  std::unique_ptr<inference::GRPCInferenceService::Stub> inference;
};

// Safe from many threads.
class SessionWorkers {
 public:
  using Found = absl::AnyInvocable<void(absl::StatusOr<SessionWorker*>)>;
  using Order = std::vector<SessionWorker*>;

  // Targets as gRPC takes them.
  explicit SessionWorkers(const std::vector<std::string>& targets);

  const std::vector<std::unique_ptr<SessionWorker>>& all() const { return workers_; }

  // Workers by the rank that a session's name gives them.
  Order RankOf(const std::string& session) const;
  // All of them, each call beginning with another, those last that could not be reached lately.
  Order Spread();

  // The worker that has the session. NOT_FOUND if none has; UNAVAILABLE if one that cannot be
  // reached may have it.
  void Locate(const std::string& session, absl::Time deadline, Found found);
  // The worker that a session of this name is to be made at: the one that has it already, else the
  // first of its rank. UNAVAILABLE if that one cannot be reached.
  void Place(const std::string& session, absl::Time deadline, Found found);
  // A name that no session has, whose first worker can be reached if any can.
  std::string DrawName();

  // What the next Locate begins with.
  void Remember(const std::string& session, SessionWorker* worker) ABSL_LOCKS_EXCLUDED(mu_);
  void Forget(const std::string& session) ABSL_LOCKS_EXCLUDED(mu_);
  bool Knows(const std::string& session) const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  class Search;

  std::vector<std::unique_ptr<SessionWorker>> workers_;
  std::atomic<size_t> next_{0};
  mutable absl::Mutex mu_;
  absl::flat_hash_map<std::string, SessionWorker*> known_ ABSL_GUARDED_BY(mu_);
};

// What a call that could not reach its worker answers.
grpc::Status WorkerStatus(const SessionWorker& worker, const grpc::Status& status);

}  // namespace attnd

#endif  // ATTND_SERVICE_ROUTER_SESSION_WORKERS_H_
