// What the engine is doing now, as gauges read at every scrape.
#ifndef ATTND_SERVICE_METRICS_SNAPSHOT_METRICS_H_
#define ATTND_SERVICE_METRICS_SNAPSHOT_METRICS_H_

#include <vector>

#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"
#include "service/router/router_engine.h"

namespace attnd {

class SnapshotMetrics final : public prometheus::Collectable {
 public:
  // `engine` must outlive this.
  explicit SnapshotMetrics(const RouterEngine& engine) : engine_(engine) {}
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const RouterEngine& engine_;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_METRICS_SNAPSHOT_METRICS_H_
