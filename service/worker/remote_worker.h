// A worker in another process, over attnd.v1.Worker.
#ifndef ATTND_SERVICE_WORKER_REMOTE_WORKER_H_
#define ATTND_SERVICE_WORKER_REMOTE_WORKER_H_

#include <memory>
#include <string>
#include <thread>
#include <unordered_set>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "attnd/v1/worker.grpc.pb.h"
#include "service/router/worker_link.h"
#include "service/worker/launch_stream.h"

namespace attnd {

struct RemoteWorkerOptions {
  std::string target;  // host:port, or unix:/path of a worker on this machine.
  int streams = 2;     // Fast launches under way at a time.
  int64_t max_result_bytes = int64_t{8} << 30;
  // Bounds of the time between attempts to reach a worker that is gone.
  absl::Duration min_backoff = absl::Milliseconds(100);
  absl::Duration max_backoff = absl::Seconds(1);
  // The longest time between attempts where something answers that is no worker.
  absl::Duration max_attach_backoff = absl::Seconds(4);
};

// Keeps one stream open to learn the worker's state. The stream breaks when the worker's process
// ends, and when the worker does not answer pings for some seconds; the state is then kDown until a
// new stream stands. Small launches have a stream for each slot, opened by the first and kept.
class RemoteWorker final : public WorkerLink {
 public:
  explicit RemoteWorker(const RemoteWorkerOptions& options);
  ~RemoteWorker() override;

  std::string name() const override { return options_.target; }
  std::string device() const override;
  KernelTable kernels() const override;
  std::vector<Lane> slots() const override;
  void Start(StateObserver observer) override;
  void Stop() override;
  // Launches that fit into a frame are answered later, on a thread of gRPC's; others on this one.
  void Execute(int slot, const Operator& op, const BoundCall& call, const std::string& kernel,
               LaunchLife& life, Executed done) override;
  absl::StatusOr<NumericsReport> Compare(int slot, const Operator& op, const CompareJob& job,
                                         LaunchLife& life) override;

 private:
  // A running RPC, so that Stop can end it.
  class Running;
  class AttachReactor;
  struct Answer {
    v1::ExecuteFrame header;
    NamedTensors tensors;
  };

  void Watch(const StateObserver& observer);
  // Notes what is wrong with whoever answers there (empty: nothing); whether that is to be told.
  bool IsNews(const std::string& fault);
  // Returns the state to report; kDown for a worker of another build.
  WorkerState Learn(const v1::WorkerStatus& status);
  absl::StatusOr<Answer> Exchange(v1::ExecuteFrame first, const NamedTensors& tensors,
                                  LaunchLife& life);
  // Sends the stream's request.
  void ExchangeSmall(const std::shared_ptr<LaunchStream>& stream, LaunchLife& life, Executed done);
  // The slot's stream, a new one if there was none or it ended.
  const std::shared_ptr<LaunchStream>& StreamOf(int slot);
  // What became of a launch that did not succeed.
  absl::Status Failure(const grpc::Status& status, const LaunchLife& life) const;

  const RemoteWorkerOptions options_;
  const std::unique_ptr<v1::Worker::Stub> stub_;
  std::thread watcher_;
  // By slot; each is used by the launch that has the slot.
  std::vector<std::shared_ptr<LaunchStream>> launch_streams_;
  mutable absl::Mutex mu_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::string fault_ ABSL_GUARDED_BY(mu_);
  std::string device_ ABSL_GUARDED_BY(mu_);
  KernelTable kernels_ ABSL_GUARDED_BY(mu_);
  std::unordered_set<grpc::ClientContext*> running_ ABSL_GUARDED_BY(mu_);
  int contexts_ ABSL_GUARDED_BY(mu_) = 0;  // That exist, running or about to go.
};

}  // namespace attnd

#endif  // ATTND_SERVICE_WORKER_REMOTE_WORKER_H_
