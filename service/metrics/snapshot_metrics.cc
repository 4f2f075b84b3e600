#include "service/metrics/snapshot_metrics.h"

#include <string>
#include <utility>

#include "service/metrics/process_metrics.h"

namespace attnd {

using prometheus::MetricFamily;
using prometheus::MetricType;

std::vector<MetricFamily> SnapshotMetrics::Collect() const {
  const RouterEngine::Snapshot now = engine_.snapshot();

  MetricFamily queue{
      "attnd_queue_requests", "Calls that wait, by priority.", MetricType::Gauge, {}};
  for (size_t priority = 0; priority < now.waiting.size(); ++priority) {
    queue.metric.push_back(GaugeSample({{"priority", std::to_string(priority)}},
                                       static_cast<double>(now.waiting[priority])));
  }
  MetricFamily up{"attnd_worker_up", "Whether the worker takes launches.", MetricType::Gauge, {}};
  MetricFamily draining{"attnd_worker_draining",
                        "Whether the worker finishes what it has and "
                        "takes no more.",
                        MetricType::Gauge,
                        {}};
  MetricFamily running{"attnd_worker_launches", "Launches under way.", MetricType::Gauge, {}};
  MetricFamily restarts{"attnd_worker_restarts_total",
                        "Times the worker came back after it had drained, or was lost.",
                        MetricType::Counter,
                        {}};
  MetricFamily cpu_memory{"attnd_cpu_memory_bytes",
                          "Memory of tensors on the CPU: handed out now (in_use), and the most "
                          "that ever was (peak).",
                          MetricType::Gauge,
                          {}};
  MetricFamily gpu_memory{"attnd_gpu_memory_bytes",
                          "Memory of tensors on the GPU: handed out now (in_use), and the most "
                          "that ever was, each executor's added up (peak).",
                          MetricType::Gauge,
                          {}};
  MetricFamily gpu_errors{"attnd_gpu_errors_total",
                          "Launches that failed on the GPU: for want of memory (memory), or by a "
                          "fault (fault).",
                          MetricType::Counter,
                          {}};
  for (const auto& worker : now.workers) {
    for (const DeviceUse& use : worker.uses) {
      MetricFamily& memory = use.device == Device::kCuda ? gpu_memory : cpu_memory;
      memory.metric.push_back(
          GaugeSample({{"kind", "in_use"}}, static_cast<double>(use.bytes_in_use)));
      memory.metric.push_back(GaugeSample({{"kind", "peak"}}, static_cast<double>(use.bytes_peak)));
      if (use.device != Device::kCuda) continue;
      gpu_errors.metric.push_back(
          GaugeSample({{"kind", "memory"}}, static_cast<double>(use.out_of_memory)));
      gpu_errors.metric.push_back(
          GaugeSample({{"kind", "fault"}}, static_cast<double>(use.faults)));
    }
    const std::vector<prometheus::ClientMetric::Label> label = {{"worker", worker.name}};
    up.metric.push_back(GaugeSample(label, worker.state == WorkerState::kUp));
    draining.metric.push_back(GaugeSample(label, worker.state == WorkerState::kDraining));
    running.metric.push_back(GaugeSample(label, static_cast<double>(worker.running)));
    const auto came_back = [&](const char* cause, uint64_t times) {
      restarts.metric.push_back(
          GaugeSample({{"worker", worker.name}, {"cause", cause}}, static_cast<double>(times)));
    };
    came_back("drained", worker.drained);
    came_back("lost", worker.restarts - worker.drained);
  }
  std::vector<MetricFamily> families = {
      std::move(queue),
      SingleMetric("attnd_queue_predicted_wait_seconds",
                   "What a call to a fused kernel that came now would wait, from how long "
                   "calls took lately.",
                   MetricType::Gauge, absl::ToDoubleSeconds(now.predicted_wait)),
      SingleMetric("attnd_queue_bytes", "Bytes of the calls that wait.", MetricType::Gauge,
                   static_cast<double>(now.waiting_bytes)),
      SingleMetric("attnd_answer_bytes",
                   "Outputs of calls under way, and of answers that clients have not read yet.",
                   MetricType::Gauge, static_cast<double>(now.answer_bytes)),
      SingleMetric("attnd_running_calls", "Calls taken from the queue and not yet answered.",
                   MetricType::Gauge, static_cast<double>(now.running)),
      SingleMetric("attnd_draining", "Whether new calls are refused.", MetricType::Gauge,
                   now.draining ? 1 : 0),
      std::move(up),
      std::move(draining),
      std::move(running),
      std::move(restarts)};
  for (MetricFamily* family : {&cpu_memory, &gpu_memory, &gpu_errors}) {
    if (!family->metric.empty()) families.push_back(std::move(*family));
  }
  if (sequences_ == nullptr) return families;
  const SequenceStore::Usage usage = sequences_->usage();
  families.push_back(SingleMetric("attnd_sequences", "Sequences whose state the server keeps.",
                                  MetricType::Gauge, static_cast<double>(usage.sequences)));
  families.push_back(SingleMetric("attnd_sequence_bytes", "Bytes of the states of all sequences.",
                                  MetricType::Gauge, static_cast<double>(usage.bytes)));
  families.push_back(SingleMetric("attnd_sequences_expired_total",
                                  "Sequences dropped because nobody used them.",
                                  MetricType::Counter, static_cast<double>(usage.expired)));
  return families;
}

}  // namespace attnd
