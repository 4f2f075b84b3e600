#include "service/process.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "prometheus/registry.h"
#include "service/grpc_server.h"
#include "service/log.h"
#include "service/machine_memory.h"
#include "service/metrics/engine_metrics.h"
#include "service/metrics/http_server.h"
#include "service/metrics/process_metrics.h"
#include "service/metrics/rpc_metrics.h"
#include "service/metrics/session_metrics.h"
#include "service/metrics/session_snapshot.h"
#include "service/metrics/snapshot_metrics.h"
#include "service/metrics/status_page.h"
#include "service/router/language_proxy.h"
#include "service/router/router_engine.h"
#include "service/router/session_proxy.h"
#include "service/router/session_workers.h"
#include "service/rpc/language_inference.h"
#include "service/rpc/services.h"
#include "service/session/measured_store.h"
#include "service/session/memory_store.h"
#include "service/session/model_sequences.h"
#include "service/session/redis_store.h"
#include "service/session/rocksdb_store.h"
#include "service/session/sequence_store.h"
#include "service/session/session_manager.h"
#include "service/spare_threads.h"
#include "service/version.h"
#include "service/worker/frames.h"
#include "service/worker/local_worker.h"
#include "service/worker/remote_worker.h"
#include "service/worker/worker_service.h"

namespace attnd {
namespace {

// How often health follows the engine's readiness.
constexpr absl::Duration kHealthPeriod = absl::Milliseconds(100);

EngineOptions MakeEngineOptions(const Config& config) {
  return {.queue = {.max_calls = static_cast<size_t>(config.queue_calls),
                    .max_bytes = config.queue_bytes,
                    .max_batch_calls = static_cast<size_t>(config.max_batch_calls),
                    .max_batch_bytes = config.max_batch_bytes},
          .max_call_bytes = config.max_call_bytes,
          .memory_limit_bytes = HostMemoryLimit(config, MachineMemory())};
}

// `models` gets the device of language models, null: they run on the CPU.
absl::StatusOr<std::vector<std::unique_ptr<WorkerLink>>> MakeWorkers(
    const Config& config, Registry& registry, std::shared_ptr<Backend>& models) {
  std::vector<std::unique_ptr<WorkerLink>> workers;
  for (const std::string& target : config.workers) {
    workers.push_back(std::make_unique<RemoteWorker>(
        RemoteWorkerOptions{.target = target,
                            .streams = config.worker_streams,
                            .max_result_bytes = config.max_call_bytes + config.max_batch_bytes}));
  }
  if (config.mode == Mode::kRouter) return workers;
  absl::StatusOr<std::unique_ptr<LocalWorker>> local =
      LocalWorker::Create({.device = config.device,
                           .executors = config.executors,
                           .cpu_threads = config.cpu_threads,
                           .memory_limit_bytes = HostMemoryLimit(config, MachineMemory()),
                           .gpu_memory_limit_bytes = config.memory_limit.value_or(0)},
                          registry);
  if (!local.ok()) return local.status();
  if (!config.models.empty()) {
    absl::StatusOr<std::shared_ptr<Backend>> device =
        (*local)->OpenDevice(registry, config.memory_limit.value_or(0));
    if (!device.ok()) return device.status();
    models = *std::move(device);
  }
  workers.push_back(*std::move(local));
  return workers;
}

// Appears whole or not at all, so that a reader never sees half of it.
absl::Status WritePortFile(const std::string& path, int grpc_port, int metrics_port) {
  const nlohmann::json ports = {
      {"grpc", grpc_port}, {"metrics", metrics_port}, {"pid", static_cast<int64_t>(getpid())}};
  const std::string unfinished = absl::StrCat(path, ".new");
  std::ofstream file(unfinished);
  file << ports.dump() << "\n";
  file.close();
  if (!file || std::rename(unfinished.c_str(), path.c_str()) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot write --port-file ", path));
  }
  return absl::OkStatus();
}

// Everything that a process owns, in the order in which it must go.
class Process {
 public:
  explicit Process(const Config& config)
      : config_(config), metrics_registry_(std::make_shared<prometheus::Registry>()) {}

  absl::Status Start() {
    RegisterAllOperators(operators_);
    absl::StatusOr<std::vector<std::unique_ptr<WorkerLink>>> workers =
        MakeWorkers(config_, operators_, models_device_);
    if (!workers.ok()) return workers.status();
    device_ = config_.mode == Mode::kRouter ? "" : workers->front()->device();
    engine_metrics_ = std::make_unique<EngineMetrics>(*metrics_registry_, operators_);
    engine_ = std::make_unique<RouterEngine>(operators_, MakeEngineOptions(config_),
                                             *engine_metrics_, *std::move(workers));
    rpc_metrics_ = std::make_unique<RpcMetrics>(*metrics_registry_, TakesBytes);
    // Where a call takes two hops, its latency is what counts; a server of its own rather serves
    // many.
    if (config_.mode != Mode::kServe) {
      spare_threads_ = std::make_unique<SpareThreads>(TakesBytes);
    }
    if (absl::Status s = MakeServices(); !s.ok()) return s;
    if (absl::Status s = Listen(); !s.ok()) return s;
    engine_->Start();
    LogStart();
    if (config_.port_file.empty()) return absl::OkStatus();
    return WritePortFile(config_.port_file, grpc_->port(), http_ == nullptr ? -1 : http_->port());
  }

  // Health follows the engine until the signal comes.
  void Serve(const StopSignal& stop) {
    bool serving = false;
    do {
      if (engine_->ready() != serving) {
        serving = !serving;
        grpc_->SetServing(serving);
        Log(serving ? LogLevel::kInfo : LogLevel::kWarn, serving ? "serving" : "not serving");
      }
    } while (!stop.Wait(kHealthPeriod));
  }

  // Whether every call that had been taken was answered. Where not, launches may be under way that
  // nothing can stop but the end of the process.
  bool Drain() {
    const absl::Time end = absl::Now() + absl::Seconds(config_.drain_seconds);
    Log(LogLevel::kInfo, "draining", {{"seconds", config_.drain_seconds}});
    engine_->AnnounceDrain();
    grpc_->SetServing(false);
    if (worker_service_ != nullptr) worker_service_->SetDraining();
    // Balancers and routers need a moment to hear it; until then what they send is still done.
    absl::SleepFor(absl::Milliseconds(config_.drain_notice_ms));
    const bool finished = engine_->Drain(end - absl::Now());
    rpc_metrics_->StopOwing();
    if (worker_service_ != nullptr) worker_service_->Detach();
    // Decodes are taken up again by whoever serves their sessions next.
    if (manager_ != nullptr) manager_->Drain();
    // What is computed has still to reach its clients, however slow they or the machine are.
    AwaitNone(&RpcMetrics::Owed::answers, end);
    // Streams of many calls have had theirs, up to what is on its way.
    if (finished) AwaitNone(&RpcMetrics::Owed::streams, absl::Now() + absl::Seconds(1));
    if (finished) {
      grpc_->Shutdown();
    } else {
      grpc_->Abandon(absl::Seconds(1));
    }
    Log(finished ? LogLevel::kInfo : LogLevel::kWarn, "stopped", {{"all_answered", finished}});
    return finished;
  }

 private:
  void AwaitNone(int64_t RpcMetrics::Owed::*count, absl::Time end) const {
    while (rpc_metrics_->owed().*count > 0 && absl::Now() < end) {
      absl::SleepFor(absl::Milliseconds(2));
    }
  }

  absl::Status MakeServices() {
    RpcLimits limits = {.max_message_bytes = config_.max_message_bytes,
                        .max_tensor_bytes = config_.max_tensor_bytes,
                        .max_call_bytes = config_.max_call_bytes,
                        .max_buffer_bytes = config_.max_buffer_bytes};
    // What could never be buffered is too large, not early; and chunks are messages themselves.
    limits.max_call_bytes = std::min(limits.max_call_bytes, limits.max_buffer_bytes);
    limits.chunk_bytes = std::min(limits.chunk_bytes, limits.max_message_bytes / 2);
    sequences_ = std::make_unique<SequenceStore>(
        SequenceLimits{.idle = absl::Seconds(config_.sequence_idle_seconds),
                       .max_sequences = static_cast<size_t>(config_.max_sequences),
                       .max_bytes = config_.max_sequence_bytes});
    if (config_.mode == Mode::kWorker) {
      auto service = std::make_unique<WorkerService>(
          *engine_, device_, config_.max_call_bytes + config_.max_batch_bytes,
          spare_threads_.get());
      worker_service_ = service.get();
      services_.push_back(std::move(service));
      health_names_ = {"attnd.v1.Worker"};
    } else {
      services_.push_back(MakeOperatorsService(*engine_, limits));
      health_names_ = {"attnd.v1.Operators"};
    }
    health_names_.emplace_back("inference.GRPCInferenceService");
    if (absl::Status s = ServeSessions(); !s.ok()) return s;
    std::unique_ptr<LanguageModels> models;
    if (session_workers_ != nullptr) {
      models = MakeLanguageProxy(*session_workers_);
    } else {
      models = std::make_unique<LanguageInference>(*model_sequences_);
    }
    services_.push_back(MakeInferenceService(*engine_, *sequences_, std::move(models), limits,
                                             std::string(kVersion)));
    return absl::OkStatus();
  }

  // Sessions and models: a router's are its workers'.
  absl::Status ServeSessions() {
    health_names_.insert(health_names_.end(), {"attnd.v1.Sessions", "attnd.v1.Models"});
    if (config_.mode == Mode::kRouter) {
      session_workers_ = std::make_unique<SessionWorkers>(config_.workers);
      services_.push_back(MakeSessionsProxy(*session_workers_));
      services_.push_back(MakeModelsProxy(*session_workers_));
      return absl::OkStatus();
    }
    if (absl::Status s = MakeSessions(); !s.ok()) return s;
    services_.push_back(MakeSessionsService(*manager_));
    services_.push_back(MakeModelsService(*manager_));
    return absl::OkStatus();
  }

  absl::Status MakeSessions() {
    session_metrics_ = std::make_unique<SessionMetrics>(*metrics_registry_);
    RunnerOptions runner{.step_seconds = &session_metrics_->step};
    if (models_device_ != nullptr) {
      // A GPU's step takes as long for many rows as for one.
      runner.step_rows = 4096;
      runner.max_sequences = 1024;
    }
    models_ = std::make_unique<ModelTable>(config_.models, runner, models_device_,
                                           models_device_ != nullptr ? device_ : "cpu");
    absl::StatusOr<std::unique_ptr<SessionStore>> store = OpenStore();
    if (!store.ok()) return store.status();
    store_ = std::make_unique<MeasuredStore>(*std::move(store), *session_metrics_);
    manager_ = std::make_unique<SessionManager>(
        *models_, *store_, *session_metrics_,
        SessionLimits{.max_sessions = static_cast<uint64_t>(config_.max_sessions),
                      .max_state_bytes = config_.max_session_bytes,
                      .idle_seconds = config_.session_idle_seconds,
                      .max_checkpoint_bytes = config_.max_checkpoint_bytes,
                      .max_log_bytes = static_cast<uint64_t>(config_.max_session_log_bytes),
                      // The rest of the message is small.
                      .max_answer_bytes = config_.max_message_bytes / 16 * 15},
        engine_.get());
    model_sequences_ = std::make_unique<ModelSequences>(*manager_, config_.sequence_idle_seconds);
    return absl::OkStatus();
  }

  absl::StatusOr<std::unique_ptr<SessionStore>> OpenStore() const {
    if (!config_.state_dir.empty()) {
      return RocksDbStore::Open(
          {.folder = config_.state_dir, .max_bytes = config_.max_store_bytes});
    }
    if (config_.state_url.empty()) return std::make_unique<MemoryStore>();
    absl::StatusOr<RedisAddress> address = ParseRedisUrl(config_.state_url);
    if (!address.ok()) return address.status();
    return RedisStore::Open({.address = *std::move(address), .max_bytes = config_.max_store_bytes});
  }

  absl::Status Listen() {
    std::vector<grpc::Service*> services;
    for (const auto& service : services_) services.push_back(service.get());
    absl::StatusOr<std::unique_ptr<GrpcServer>> grpc =
        GrpcServer::Start({.address = config_.address,
                           .port = config_.port,
                           .socket = config_.socket,
                           .max_message_bytes = MaxMessageBytes(),
                           .max_buffer_bytes = config_.max_buffer_bytes,
                           .max_streams = config_.max_streams,
                           .spare_threads = spare_threads_.get()},
                          *rpc_metrics_, services, health_names_);
    if (!grpc.ok()) return grpc.status();
    grpc_ = *std::move(grpc);
    if (config_.metrics_port < 0) return absl::OkStatus();
    const std::string mode(Name(config_.mode));
    std::vector<std::shared_ptr<prometheus::Collectable>> metrics = {
        metrics_registry_,
        std::make_shared<SnapshotMetrics>(
            *engine_,
            // Operators' sequences are kept where their calls come in.
            config_.mode == Mode::kWorker ? nullptr : sequences_.get()),
        std::make_shared<ProcessMetrics>(mode)};
    if (manager_ != nullptr) {
      metrics.push_back(std::make_shared<SessionSnapshot>(*manager_, *models_, *store_));
    }
    absl::StatusOr<std::unique_ptr<HttpServer>> http = HttpServer::Start(
        config_.address, config_.metrics_port, MakeStatusPages(*engine_, mode, std::move(metrics)));
    if (!http.ok()) return http.status();
    http_ = *std::move(http);
    return absl::OkStatus();
  }

  // Routers cut launches into frames, whatever clients may send.
  int64_t MaxMessageBytes() const {
    if (config_.mode != Mode::kWorker) return config_.max_message_bytes;
    return std::max(config_.max_message_bytes, 2 * kFrameBytes);
  }

  void LogStart() const {
    Log(LogLevel::kInfo, "listening",
        {{"mode", Name(config_.mode)},
         {"version", kVersion},
         {"address", config_.address},
         {"grpc_port", grpc_->port()},
         {"socket", config_.socket},
         {"metrics_port", http_ == nullptr ? -1 : http_->port()},
         {"device", device_},
         {"workers", absl::StrJoin(config_.workers, ",")},
         {"operators", operators_.operators().size()},
         {"max_message_bytes", config_.max_message_bytes},
         {"memory_limit", HostMemoryLimit(config_, MachineMemory())},
         {"queue_calls", config_.queue_calls},
         {"max_batch_calls", config_.max_batch_calls}});
  }

  const Config& config_;
  Registry operators_;
  const std::shared_ptr<prometheus::Registry> metrics_registry_;
  std::unique_ptr<EngineMetrics> engine_metrics_;
  std::unique_ptr<RpcMetrics> rpc_metrics_;
  std::unique_ptr<SpareThreads> spare_threads_;  // Of a router and a worker.
  std::string device_;
  std::shared_ptr<Backend> models_device_;
  std::unique_ptr<SequenceStore> sequences_;
  std::unique_ptr<SessionMetrics> session_metrics_;
  std::unique_ptr<ModelTable> models_;
  std::unique_ptr<SessionStore> store_;
  std::unique_ptr<SessionManager> manager_;
  std::unique_ptr<ModelSequences> model_sequences_;
  std::unique_ptr<SessionWorkers> session_workers_;  // Of a router.
  std::unique_ptr<RouterEngine> engine_;
  std::vector<std::unique_ptr<grpc::Service>> services_;
  std::vector<std::string> health_names_;
  WorkerService* worker_service_ = nullptr;  // One of the services, in a worker.
  std::unique_ptr<GrpcServer> grpc_;
  std::unique_ptr<HttpServer> http_;
};

}  // namespace

int RunProcess(const Config& config, const StopSignal& stop) {
  Process process(config);
  if (absl::Status s = process.Start(); !s.ok()) {
    Log(LogLevel::kError, "cannot start", {{"error", s.message()}});
    return 1;
  }
  process.Serve(stop);
  if (!process.Drain()) _exit(0);
  return 0;
}

}  // namespace attnd
