// What sessions, models and their store hold now, read at every scrape.
#ifndef ATTND_SERVICE_METRICS_SESSION_SNAPSHOT_H_
#define ATTND_SERVICE_METRICS_SESSION_SNAPSHOT_H_

#include <vector>

#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"
#include "service/session/model_table.h"
#include "service/session/session_manager.h"
#include "service/session/session_store.h"

namespace attnd {

class SessionSnapshot final : public prometheus::Collectable {
 public:
  // All must outlive this.
  SessionSnapshot(const SessionManager& sessions, const ModelTable& models, SessionStore& store)
      : sessions_(sessions), models_(models), store_(store) {}
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const SessionManager& sessions_;
  const ModelTable& models_;
  SessionStore& store_;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_METRICS_SESSION_SNAPSHOT_H_
