// The engine's metric families: queue, batches, operators. Label values come from closed sets:
// operators of the registry, their kernels, element types, status codes.
#ifndef ATTND_SERVICE_METRICS_ENGINE_METRICS_H_
#define ATTND_SERVICE_METRICS_ENGINE_METRICS_H_

#include <array>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "kernels/core/dtype.h"
#include "kernels/core/numerics.h"
#include "kernels/core/registry.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "service/metrics/code_name.h"

namespace attnd {

// Of one operator. Series are made when first needed and found by a short scan afterwards.
class OpMetrics {
 public:
  struct Families {
    prometheus::Family<prometheus::Counter>& evaluations;
    prometheus::Family<prometheus::Histogram>& compute_seconds;
    prometheus::Family<prometheus::Histogram>& batch_size;
    prometheus::Family<prometheus::Histogram>& relative_error;
    prometheus::Family<prometheus::Histogram>& max_abs_error;
    prometheus::Family<prometheus::Counter>& nonfinite;
    prometheus::Family<prometheus::Counter>& fallbacks;
  };
  OpMetrics(const Families& families, std::string op);

  // `calls` answers that one launch gave. `kernel` is empty where none was chosen.
  void RecordLaunch(absl::string_view kernel, DType dtype, absl::StatusCode code, size_t calls,
                    absl::Duration compute);
  // What a numerics report found.
  void RecordError(const NumericsReport& report);
  // A launch of the definition because no fused kernel took its call. `from` is the kernel that
  // comes first for the device, empty if there is none.
  void RecordFallback(absl::string_view from, size_t calls);

 private:
  struct Kernel {
    std::string name;
    prometheus::Histogram* compute_seconds = nullptr;
    prometheus::Histogram* relative_error = nullptr;
    prometheus::Histogram* max_abs_error = nullptr;
    prometheus::Counter* nonfinite = nullptr;
    prometheus::Counter* fallbacks = nullptr;                           // From this kernel.
    std::array<std::array<prometheus::Counter*, 17>, 7> evaluations{};  // By type and code.
  };
  Kernel& Of(absl::string_view kernel) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Families families_;
  const std::string op_;
  prometheus::Histogram& batch_size_;
  absl::Mutex mu_;
  std::vector<std::unique_ptr<Kernel>> kernels_ ABSL_GUARDED_BY(mu_);
};

class EngineMetrics {
 public:
  EngineMetrics(prometheus::Registry& registry, const Registry& operators);

  // Of an operator of the registry.
  OpMetrics& Of(absl::string_view op) { return *ops_.find(op)->second; }

 private:
  prometheus::Family<prometheus::Counter>& rejected_family_;
  prometheus::Family<prometheus::Counter>& cancelled_family_;
  prometheus::Family<prometheus::Counter>& late_family_;
  prometheus::Family<prometheus::Counter>& fire_family_;
  std::map<std::string, std::unique_ptr<OpMetrics>, std::less<>> ops_;

 public:
  // Calls refused before they were queued, by cause.
  prometheus::Counter& rejected_invalid;
  prometheus::Counter& rejected_too_large;
  prometheus::Counter& rejected_queue_full;
  prometheus::Counter& rejected_draining;
  prometheus::Counter& rejected_no_worker;
  prometheus::Counter& rejected_buffer_full;
  prometheus::Counter& rejected_memory_full;
  // Calls whose client left, or whose deadline passed, while their inputs came, while they waited,
  // while they ran.
  prometheus::Counter& cancelled_receiving;
  prometheus::Counter& cancelled_queued;
  prometheus::Counter& cancelled_running;
  prometheus::Counter& late_receiving;
  prometheus::Counter& late_queued;
  prometheus::Counter& late_running;
  // Launches, by what ended their batch.
  prometheus::Counter& fired_no_more;
  prometheus::Counter& fired_max_calls;
  prometheus::Counter& fired_max_bytes;
  // Launches that a worker ended early, or never began: all of their calls were cancelled or late.
  prometheus::Counter& launches_ended_early;
  prometheus::Histogram& queue_wait;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_METRICS_ENGINE_METRICS_H_
