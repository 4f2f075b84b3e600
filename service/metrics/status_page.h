// What people and probes read on the metrics port.
#ifndef ATTND_SERVICE_METRICS_STATUS_PAGE_H_
#define ATTND_SERVICE_METRICS_STATUS_PAGE_H_

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "prometheus/collectable.h"
#include "service/metrics/http_server.h"
#include "service/router/router_engine.h"

namespace attnd {

// /metrics, /healthz (the process answers), /readyz (calls are taken), / (a page for people).
// `engine` must outlive the pages.
HttpPages MakeStatusPages(const RouterEngine& engine, std::string mode,
                          std::vector<std::shared_ptr<prometheus::Collectable>> metrics);

}  // namespace attnd

#endif  // ATTND_SERVICE_METRICS_STATUS_PAGE_H_
