// The worker's side of attnd.v1.Worker: launches go to this process's engine.
#ifndef ATTND_SERVICE_WORKER_WORKER_SERVICE_H_
#define ATTND_SERVICE_WORKER_WORKER_SERVICE_H_

#include <memory>
#include <string>
#include <unordered_set>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "attnd/v1/worker.grpc.pb.h"
#include "service/engine.h"
#include "service/spare_threads.h"

namespace attnd {

class WorkerService final : public v1::Worker::CallbackService {
 public:
  // `engine` must outlive the service. Tensors of one launch may take `max_launch_bytes`: a packed
  // launch is as large as a router's batch. `spare_threads` is told of small launches; may be null.
  WorkerService(Engine& engine, std::string device, int64_t max_launch_bytes,
                SpareThreads* spare_threads = nullptr);
  ~WorkerService() override;

  // Tells attached routers to send no more.
  void SetDraining();
  // Ends the streams of attached routers, those with a launch under way after its answer: the
  // worker is about to go.
  void Detach();

  grpc::ServerWriteReactor<v1::WorkerStatus>* Attach(grpc::CallbackServerContext* context,
                                                     const v1::AttachRequest* request) override;
  grpc::ServerBidiReactor<v1::ExecuteFrame, v1::ExecuteFrame>* Execute(
      grpc::CallbackServerContext* context) override;
  grpc::ServerBidiReactor<v1::ExecuteFrame, v1::ExecuteFrame>* ExecuteSmall(
      grpc::CallbackServerContext* context) override;

 private:
  class AttachReactor;
  class ExecuteReactor;
  class SmallReactor;

  v1::WorkerStatus Status(bool draining) const;
  void Forget(AttachReactor* reactor);
  void Forget(SmallReactor* reactor);

  Engine& engine_;
  const std::string device_;
  const int64_t max_launch_bytes_;
  SpareThreads* const spare_threads_;
  absl::Mutex mu_;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  bool detached_ ABSL_GUARDED_BY(mu_) = false;
  std::unordered_set<AttachReactor*> attached_ ABSL_GUARDED_BY(mu_);
  std::unordered_set<SmallReactor*> launching_ ABSL_GUARDED_BY(mu_);
};

}  // namespace attnd

#endif  // ATTND_SERVICE_WORKER_WORKER_SERVICE_H_
