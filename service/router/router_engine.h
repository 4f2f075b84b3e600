// The engine: admission, one queue, and workers that take from it whatever may run together.
//
// A slot of a worker that becomes free takes the head of the queue and every waiting call that may
// share its launch; it never waits for more. Batches grow by themselves exactly when workers are
// the bottleneck. A call so small that handing it to another thread would be most of its time, and
// that finds a free slot, runs where it arrived.
#ifndef ATTND_SERVICE_ROUTER_ROUTER_ENGINE_H_
#define ATTND_SERVICE_ROUTER_ROUTER_ENGINE_H_

#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "service/engine.h"
#include "service/metrics/engine_metrics.h"
#include "service/router/call_queue.h"
#include "service/router/worker_link.h"

namespace attnd {

struct EngineOptions {
  QueueLimits queue;
  // Inputs and outputs of one call.
  int64_t max_call_bytes = int64_t{8} << 30;
  // Outputs of calls under way, and of answers as long as anybody holds on to them: until their
  // clients have read them. 0: no limit.
  int64_t memory_limit_bytes = 0;
  // How soon a call that waits notices that it is late or was cancelled.
  absl::Duration sweep_period = absl::Milliseconds(5);
  // Elements of a call's largest input times its largest extent: about its multiplications. Calls
  // up to it are light: they may run on the thread that brings them. 0: none is.
  int64_t light_work = int64_t{1} << 20;
};

class RouterEngine final : public Engine {
 public:
  // `operators` and `metrics` must outlive the engine. Nothing runs before Start.
  RouterEngine(const Registry& operators, const EngineOptions& options, EngineMetrics& metrics,
               std::vector<std::unique_ptr<WorkerLink>> workers);
  // Calls that still wait are answered UNAVAILABLE; running launches are waited for. Nobody may
  // call any more.
  ~RouterEngine() override;

  void Start();

  // Not ready from now on, though calls are still taken: balancers look before they leave.
  void AnnounceDrain() { leaving_.store(true); }

  // Refuses new calls from now on (UNAVAILABLE) and waits until all admitted ones are answered, at
  // most `patience`. Returns whether they were.
  bool Drain(absl::Duration patience);

  void Evaluate(EngineCall call, Done done) override;
  void Compare(EngineCall call, const RandomCompare* random, CompareDone done) override;
  const Registry& registry() const override { return operators_; }
  std::vector<KernelName> KernelsOf(absl::string_view op) const override;
  bool ready() const override;
  void NoteDropped(Dropped what) override;
  OpStatistics Statistics(absl::string_view op) const override;

  // What metrics and the status page show.
  struct Snapshot {
    struct Worker {
      std::string name;
      std::string device;
      WorkerState state;
      uint64_t restarts;  // Times it came up again after the first.
      uint64_t drained;   // Those among them that it had announced by draining.
      size_t running;     // Launches.
      std::vector<DeviceUse> uses;
    };
    std::vector<Worker> workers;
    std::vector<size_t> waiting;  // By priority.
    int64_t waiting_bytes;
    int64_t answer_bytes;           // Outputs of calls under way, and of answers not yet read.
    absl::Duration predicted_wait;  // Of a call that came now and is not batched with another.
    size_t running;                 // Calls in launches under way.
    bool draining;
  };
  Snapshot snapshot() const;

 private:
  struct OpState;
  struct Worker;
  struct Launch;
  using LaunchPtr = std::unique_ptr<Launch>;

  // A queue entry for a call whose operator and priority are known to be right.
  absl::StatusOr<CallList> Prepare(EngineCall& in);
  // Validates and measures.
  absl::Status BindInto(const CallRequest& request, QueuedCall& call);
  absl::Status CheckSize(QueuedCall& call) const;
  // Takes room for the call's outputs; RESOURCE_EXHAUSTED if there is none.
  absl::Status TakeAnswerRoom(QueuedCall& call);
  // OK, or why no call is taken now.
  absl::Status CheckOpen() ABSL_LOCKS_EXCLUDED(mu_);
  absl::Status CheckOpenLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool IsLight(const BoundCall& call) const;
  // Queues a prepared call, or runs it here; answers it at once where neither can be.
  void Admit(CallList one) ABSL_LOCKS_EXCLUDED(mu_);

  void OnWorkerState(Worker& worker, WorkerState state) ABSL_LOCKS_EXCLUDED(mu_);
  // Puts the call into a free slot unless there is none, or calls wait for one.
  LaunchPtr OccupyFree(CallList& one) ABSL_LOCKS_EXCLUDED(mu_);
  // Puts `batch` into a free slot of the worker.
  LaunchPtr Occupy(Worker& worker, Lane lane, CallList batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The worker with most free slots of the lane, or null.
  Worker* FreeWorker(Lane lane) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Brings launches from the queue to the worker's slots until the engine stops.
  void RunLane(Worker& worker, Lane lane) ABSL_LOCKS_EXCLUDED(mu_);

  // A launch from its start to its end. Each step continues with the next where the worker answers,
  // on this thread or another.
  void Run(LaunchPtr launch) ABSL_LOCKS_EXCLUDED(mu_);
  void RunTogether(LaunchPtr launch) ABSL_LOCKS_EXCLUDED(mu_);
  void RunOneByOne(LaunchPtr launch) ABSL_LOCKS_EXCLUDED(mu_);
  void RunCompare(LaunchPtr launch) ABSL_LOCKS_EXCLUDED(mu_);
  // The worker is done with it: the slot is free for another.
  void Leave(Launch& launch) ABSL_LOCKS_EXCLUDED(mu_);
  // All of its calls are answered.
  void Retire(LaunchPtr launch) ABSL_LOCKS_EXCLUDED(mu_);
  void AnswerTogether(Launch& launch, absl::StatusOr<Evaluation> ran);
  void AnswerAlone(const Worker& worker, QueuedCall& call, absl::Time start,
                   absl::StatusOr<Evaluation> ran);
  void SweepLoop() ABSL_LOCKS_EXCLUDED(mu_);
  absl::Duration PredictedWait(Lane lane) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  void Succeed(QueuedCall& call, OpState& state, Evaluation evaluation, uint32_t batch_size,
               absl::Time start);
  void Fail(QueuedCall& call, const absl::Status& status);
  // Of what a worker took: counts a launch's fallback, its batch's end, answers that come too late.
  void CountFallback(const Worker& worker, const QueuedCall& call, absl::string_view ran,
                     size_t calls);
  void CountFire(const CallList& batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CountMissed(const QueuedCall& call);
  // What a call that a worker took is answered instead of `status`: that it is late or cancelled,
  // if it is.
  static absl::Status WhyNot(const QueuedCall& call, const absl::Status& status);
  // Answers calls that waited in vain, each with what became of it: late, cancelled, or `other`.
  void AnswerDead(CallList dead, const absl::Status& other);
  OpState& StateOf(const Operator& op) const;

  const Registry& operators_;
  const EngineOptions options_;
  EngineMetrics& metrics_;
  absl::flat_hash_map<const Operator*, std::unique_ptr<OpState>> op_states_;
  // Answers may outlive the engine.
  const std::shared_ptr<ByteBudget> answer_budget_;

  mutable absl::Mutex mu_;
  CallQueue queue_ ABSL_GUARDED_BY(mu_);
  size_t running_ ABSL_GUARDED_BY(mu_) = 0;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  int workers_up_ ABSL_GUARDED_BY(mu_) = 0;
  // Seconds that one call took of a slot lately, by lane: what waits are predicted from.
  std::array<std::atomic<double>, kLanes> seconds_per_call_{};
  // Whether calls are taken: not draining, and a worker is up.
  std::atomic<bool> open_{false};
  std::atomic<bool> leaving_{false};  // The end of the process is announced.

  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<std::thread> threads_;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_ROUTER_ROUTER_ENGINE_H_
