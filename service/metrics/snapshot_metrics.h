// What the engine and the store of sequences hold now, read at every scrape.
#ifndef ATTND_SERVICE_METRICS_SNAPSHOT_METRICS_H_
#define ATTND_SERVICE_METRICS_SNAPSHOT_METRICS_H_

#include <vector>

#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"
#include "service/router/router_engine.h"
#include "service/session/sequence_store.h"

namespace attnd {

class SnapshotMetrics final : public prometheus::Collectable {
 public:
  // Both must outlive this. Without `sequences` (null) nothing is told of them: a worker has none.
  explicit SnapshotMetrics(const RouterEngine& engine, const SequenceStore* sequences = nullptr)
      : engine_(engine), sequences_(sequences) {}
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const RouterEngine& engine_;
  const SequenceStore* const sequences_;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_METRICS_SNAPSHOT_METRICS_H_
