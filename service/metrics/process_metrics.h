// process_* metrics as every Prometheus client has them, and facts of this build.
#ifndef ATTND_SERVICE_METRICS_PROCESS_METRICS_H_
#define ATTND_SERVICE_METRICS_PROCESS_METRICS_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"

namespace attnd {

// A family with one sample; further samples are appended to `metric`.
prometheus::MetricFamily SingleMetric(std::string name, std::string help,
                                      prometheus::MetricType type, double value);

// One sample of a gauge family.
prometheus::ClientMetric GaugeSample(std::vector<prometheus::ClientMetric::Label> labels,
                                     double value);

// Reads /proc/self at every scrape.
class ProcessMetrics final : public prometheus::Collectable {
 public:
  explicit ProcessMetrics(std::string mode);
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const std::string mode_;
  const double start_seconds_;  // Unix time.
};

}  // namespace attnd

#endif  // ATTND_SERVICE_METRICS_PROCESS_METRICS_H_
