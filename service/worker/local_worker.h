// The worker inside this process: a device, and the CPU beside it for what is exact.
#ifndef ATTND_SERVICE_WORKER_LOCAL_WORKER_H_
#define ATTND_SERVICE_WORKER_LOCAL_WORKER_H_

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/primitives/primitives.h"
#include "service/router/worker_link.h"

namespace attnd {

struct LocalWorkerOptions {
  std::string device = "auto";         // "auto", "cpu" or "cuda:N".
  int executors = 0;                   // Fast launches at a time; 0: two on the CPU, one on a GPU.
  int cpu_threads = 0;                 // 0: all cores.
  int64_t memory_limit_bytes = 0;      // Of tensors on the CPU; 0: none.
  int64_t gpu_memory_limit_bytes = 0;  // Of each executor's on a GPU; 0: what the GPU has.
};

class LocalWorker final : public WorkerLink {
 public:
  // Opens the device, adding its kernels to `registry`, which must outlive the worker; logs what
  // was chosen and, with "auto", why it is not a GPU. INVALID_ARGUMENT for an unknown device,
  // UNAVAILABLE if the one asked for cannot be opened.
  static absl::StatusOr<std::unique_ptr<LocalWorker>> Create(const LocalWorkerOptions& options,
                                                             Registry& registry);

  std::string name() const override { return "local"; }
  // Another backend of the worker's device, with memory and a stream of its own; null on the CPU.
  absl::StatusOr<std::shared_ptr<Backend>> OpenDevice(Registry& registry,
                                                      int64_t memory_limit_bytes) const;

  std::string device() const override;
  KernelTable kernels() const override;
  std::vector<DeviceUse> uses() const override;
  std::vector<Lane> slots() const override;
  void Start(StateObserver observer) override { observer(WorkerState::kUp); }
  // Launches run to their end, while anybody waits for them.
  void Stop() override {}
  void Execute(int slot, const Operator& op, const BoundCall& call, const std::string& kernel,
               LaunchLife& life, Executed done) override;
  absl::StatusOr<NumericsReport> Compare(int slot, const Operator& op, const CompareJob& job,
                                         LaunchLife& life) override;

 private:
  explicit LocalWorker(const Registry& registry) : registry_(registry) {}
  // The device's backend for a slot: a CUDA backend serves one launch at a time, the CPU's serves
  // any number.
  Backend& BackendOf(int slot) { return cuda_.empty() ? *cpu_ : *cuda_[slot]; }

  // Counts what went wrong on a GPU. What was ended early may have work under way, on memory that
  // is about to go: waits for it.
  void NoteFailure(Backend& backend, const absl::Status& status);

  const Registry& registry_;
  std::unique_ptr<Backend> cpu_;
  std::vector<std::unique_ptr<Backend>> cuda_;  // One for each slot, or none.
  int fast_slots_ = 1;
  int ordinal_ = -1;  // Of the GPU; -1: there is none.
  std::atomic<uint64_t> gpu_out_of_memory_{0};
  std::atomic<uint64_t> gpu_faults_{0};
};

}  // namespace attnd

#endif  // ATTND_SERVICE_WORKER_LOCAL_WORKER_H_
