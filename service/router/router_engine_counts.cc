// What the engine counts and tells of itself.
#include <algorithm>
#include <utility>

#include "service/router/router_engine.h"
#include "service/router/router_engine_state.h"

namespace attnd {

absl::Duration RouterEngine::PredictedWait(Lane lane) const {
  int slots = 0;
  for (const auto& worker : workers_) {
    if (worker->state == WorkerState::kUp) slots += worker->slots[static_cast<size_t>(lane)];
  }
  if (slots == 0) return absl::ZeroDuration();
  return absl::Seconds(seconds_per_call_[static_cast<size_t>(lane)].load()) *
         static_cast<double>(queue_.calls(lane)) / slots;
}

void RouterEngine::CountFire(const CallList& batch) {
  if (queue_.waiting(batch.front().batch_key) == 0) {
    metrics_.fired_no_more.Increment();
  } else if (batch.size() >= options_.queue.max_batch_calls) {
    metrics_.fired_max_calls.Increment();
  } else {
    metrics_.fired_max_bytes.Increment();
  }
}

void RouterEngine::CountFallback(const Worker& worker, const QueuedCall& call,
                                 absl::string_view ran, size_t calls) {
  // Asked for, or the only way there is.
  if (ran != "composed" || !call.kernel.empty() || call.call.dtype() == DType::kFloat64) return;
  const KernelTable table = worker.link->kernels();
  const std::string gpu(Name(Device::kCuda));
  // A worker on a GPU lists its CPU's kernels too; those are for float64 alone.
  const bool on_gpu = std::any_of(table.begin(), table.end(), [&gpu](const auto& row) {
    return std::any_of(row.second.begin(), row.second.end(),
                       [&gpu](const KernelName& kernel) { return kernel.device == gpu; });
  });
  absl::string_view from;
  for (const auto& [op, kernels] : table) {
    if (op != call.op->spec.id()) continue;
    for (const KernelName& kernel : kernels) {
      if (from.empty() && (kernel.device == gpu) == on_gpu) from = kernel.name;
    }
  }
  StateOf(*call.op).metrics->RecordFallback(from, calls);
}

void RouterEngine::CountMissed(const QueuedCall& call) {
  switch (FateOf(call, MonotonicNow())) {
    case Fate::kLate:
      return metrics_.late_running.Increment();
    case Fate::kCancelled:
      return metrics_.cancelled_running.Increment();
    case Fate::kWaits:
      return;
  }
}

void RouterEngine::NoteDropped(Dropped what) {
  switch (what) {
    case Dropped::kInvalid:
      return metrics_.rejected_invalid.Increment();
    case Dropped::kTooLarge:
      return metrics_.rejected_too_large.Increment();
    case Dropped::kBufferFull:
      return metrics_.rejected_buffer_full.Increment();
    case Dropped::kCancelled:
      return metrics_.cancelled_receiving.Increment();
    case Dropped::kLate:
      return metrics_.late_receiving.Increment();
  }
}

std::vector<Engine::KernelName> RouterEngine::KernelsOf(absl::string_view op) const {
  std::vector<KernelName> kernels;
  for (const auto& worker : workers_) {
    for (const auto& [id, names] : worker->link->kernels()) {
      if (id != op) continue;
      for (const KernelName& kernel : names) {
        const bool known = std::any_of(kernels.begin(), kernels.end(), [&](const KernelName& k) {
          return k.name == kernel.name && k.device == kernel.device;
        });
        if (!known) kernels.push_back(kernel);
      }
    }
  }
  return kernels;
}

Engine::OpStatistics RouterEngine::Statistics(absl::string_view op) const {
  OpStatistics statistics;
  absl::StatusOr<const Operator*> found = operators_.Find(op);
  if (!found.ok()) return statistics;
  const OpState& state = StateOf(**found);
  statistics.success_count = state.success_count;
  statistics.success_ns = state.success_ns;
  statistics.fail_count = state.fail_count;
  statistics.fail_ns = state.fail_ns;
  statistics.queue_ns = state.queue_ns;
  statistics.compute_ns = state.compute_ns;
  statistics.inference_count = state.inference_count;
  statistics.execution_count = state.execution_count;
  statistics.last_inference = absl::FromUnixNanos(state.last_inference_ns);
  absl::MutexLock lock(&state.mu);
  statistics.launches = state.launches;
  return statistics;
}

RouterEngine::Snapshot RouterEngine::snapshot() const {
  Snapshot snapshot;
  absl::MutexLock lock(&mu_);
  for (const auto& worker : workers_) {
    snapshot.workers.push_back({worker->link->name(), worker->link->device(), worker->state,
                                worker->times_up > 0 ? worker->times_up - 1 : 0, worker->drained,
                                worker->running, worker->link->uses()});
  }
  for (int priority = 0; priority < kPriorities; ++priority) {
    snapshot.waiting.push_back(queue_.calls(priority));
  }
  snapshot.waiting_bytes = queue_.bytes();
  snapshot.answer_bytes = answer_budget_->taken();
  snapshot.predicted_wait = PredictedWait(Lane::kFast);
  snapshot.running = running_;
  snapshot.draining = draining_;
  return snapshot;
}

}  // namespace attnd
