#include "service/worker/local_worker.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/core/evaluate.h"
#include "kernels/core/interrupt.h"
#include "kernels/core/numerics.h"
#include "kernels/core/random_call.h"
#include "kernels/primitives/cpu/cpu_backend.h"
#include "kernels/primitives/cuda_module.h"
#include "service/guarded.h"
#include "service/log.h"

namespace attnd {
namespace {

constexpr int kCpu = -1;

// A report on random inputs is a check of arithmetic; nobody needs it on more.
constexpr int64_t kMaxRandomDim = int64_t{1} << 20;
constexpr int64_t kMaxRandomBytes = int64_t{1} << 30;

absl::StatusOr<CallRequest> DrawCall(const Operator& op, const CompareJob& job) {
  for (const auto& [symbol, size] : job.draw.dims) {
    if (size < 0 || size > kMaxRandomDim) {
      return absl::InvalidArgumentError(absl::StrCat(op.spec.id(), ": random.dims: ", symbol,
                                                     ": given ", size, ", expected 0 to ",
                                                     kMaxRandomDim));
    }
  }
  absl::StatusOr<CallRequest> drawn = RandomCall(op, {.seed = job.draw.seed,
                                                      .dtype = job.draw.dtype,
                                                      .dims = job.draw.dims,
                                                      .attributes = job.request.attributes,
                                                      .max_bytes = kMaxRandomBytes});
  if (drawn.ok()) drawn->kernel = job.request.kernel;
  return drawn;
}

// The ordinal of the GPU to use, or kCpu.
absl::StatusOr<int> ChooseDevice(const std::string& device) {
  if (device == "cpu") return kCpu;
  std::string why;
  if (device == "auto") {
    if (CudaDeviceCount(&why) > 0) return 0;
    Log(LogLevel::kWarn, "no CUDA device: running on the CPU", {{"why", why}});
    return kCpu;
  }
  absl::string_view number = device;
  int ordinal = 0;
  if (!absl::ConsumePrefix(&number, "cuda:") || !absl::SimpleAtoi(number, &ordinal) ||
      ordinal < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("device: given \"", device, "\", expected auto, cpu or cuda:N"));
  }
  const int count = CudaDeviceCount(&why);
  if (ordinal >= count) {
    return absl::UnavailableError(absl::StrCat("device: given cuda:", ordinal, ", but ", count,
                                               " CUDA devices are usable", why.empty() ? "" : ": ",
                                               why));
  }
  return ordinal;
}

}  // namespace

KernelTable KernelsOn(const Registry& registry, Device device) {
  KernelTable table;
  for (const Operator* op : registry.operators()) {
    std::vector<Engine::KernelName> names;
    for (const Kernel& kernel : op->kernels) {
      if (kernel.device == device || kernel.device == Device::kCpu) {
        names.push_back({kernel.name, std::string(Name(kernel.device))});
      }
    }
    table.emplace_back(op->spec.id(), std::move(names));
  }
  return table;
}

absl::StatusOr<std::unique_ptr<LocalWorker>> LocalWorker::Create(const LocalWorkerOptions& options,
                                                                 Registry& registry) {
  absl::StatusOr<int> ordinal = ChooseDevice(options.device);
  if (!ordinal.ok()) return ordinal.status();
  std::unique_ptr<LocalWorker> worker(new LocalWorker(registry));
  worker->cpu_ = CreateCpuBackend({.threads = options.cpu_threads,
                                   .memory_limit_bytes = options.memory_limit_bytes,
                                   .memory_limit_name = "--memory-limit"});
  worker->ordinal_ = *ordinal;
  const bool cpu = *ordinal == kCpu;
  worker->fast_slots_ = options.executors > 0 ? options.executors : (cpu ? 2 : 1);
  if (!cpu) {
    for (size_t slot = 0; slot < worker->slots().size(); ++slot) {
      absl::StatusOr<std::unique_ptr<Backend>> backend = CreateCudaBackend(
          {.ordinal = *ordinal, .memory_limit_bytes = options.gpu_memory_limit_bytes}, registry);
      if (!backend.ok()) return backend.status();
      worker->cuda_.push_back(*std::move(backend));
    }
  }
  Log(LogLevel::kInfo, "device",
      {{"device", worker->device()},
       {"asked", options.device},
       {"executors", worker->fast_slots_}});
  return worker;
}

absl::StatusOr<std::shared_ptr<Backend>> LocalWorker::OpenDevice(Registry& registry,
                                                                 int64_t memory_limit_bytes) const {
  if (ordinal_ == kCpu) return nullptr;
  return CreateCudaBackend({.ordinal = ordinal_, .memory_limit_bytes = memory_limit_bytes},
                           registry);
}

std::string LocalWorker::device() const {
  return cuda_.empty() ? cpu_->name() : cuda_.front()->name();
}

KernelTable LocalWorker::kernels() const {
  return KernelsOn(registry_, cuda_.empty() ? Device::kCpu : Device::kCuda);
}

std::vector<DeviceUse> LocalWorker::uses() const {
  std::vector<DeviceUse> uses = {{.device = Device::kCpu,
                                  .bytes_in_use = cpu_->allocated_bytes(),
                                  .bytes_peak = cpu_->peak_allocated_bytes()}};
  if (cuda_.empty()) return uses;
  DeviceUse& gpu = uses.emplace_back(DeviceUse{
      .device = Device::kCuda, .out_of_memory = gpu_out_of_memory_, .faults = gpu_faults_});
  for (const auto& backend : cuda_) {
    gpu.bytes_in_use += backend->allocated_bytes();
    gpu.bytes_peak += backend->peak_allocated_bytes();
  }
  return uses;
}

void LocalWorker::NoteFailure(Backend& backend, const absl::Status& status) {
  if (backend.device() != Device::kCuda) return;
  if (absl::IsCancelled(status) && absl::IsInternal(backend.Synchronize())) ++gpu_faults_;
  if (absl::IsResourceExhausted(status)) ++gpu_out_of_memory_;
  if (absl::IsInternal(status)) ++gpu_faults_;
}

std::vector<Lane> LocalWorker::slots() const {
  std::vector<Lane> lanes(fast_slots_, Lane::kFast);
  lanes.push_back(Lane::kReference);
  return lanes;
}

void LocalWorker::Execute(int slot, const Operator& op, const BoundCall& call,
                          const std::string& kernel, LaunchLife& life, Executed done) {
  Backend& backend = call.dtype() == DType::kFloat64 ? *cpu_ : BackendOf(slot);
  absl::StatusOr<Evaluation> evaluation = Guarded([&] {
    return Interruptible(life, [&] { return EvaluateBound(op, backend, call, kernel); });
  });
  NoteFailure(backend, evaluation.status());
  done(std::move(evaluation));
}

absl::StatusOr<NumericsReport> LocalWorker::Compare(int slot, const Operator& op,
                                                    const CompareJob& job, LaunchLife& life) {
  absl::StatusOr<CallRequest> request = job.request;
  if (job.random) request = DrawCall(op, job);
  if (!request.ok()) return request.status();
  absl::StatusOr<BoundCall> bound = Bind(op.spec, *request);
  if (!bound.ok()) return bound.status();
  Backend& backend = bound->dtype() == DType::kFloat64 ? *cpu_ : BackendOf(slot);
  absl::StatusOr<NumericsReport> report =
      Interruptible(life, [&] { return attnd::Compare(op, backend, *cpu_, *request); });
  NoteFailure(backend, report.status());
  return report;
}

}  // namespace attnd
