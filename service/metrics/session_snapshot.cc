#include "service/metrics/session_snapshot.h"

#include <algorithm>

#include "service/metrics/process_metrics.h"

namespace attnd {

using prometheus::MetricFamily;
using prometheus::MetricType;

std::vector<MetricFamily> SessionSnapshot::Collect() const {
  const SessionManager::Usage now = sessions_.usage();
  const SessionStore::Usage stored = store_.usage();
  const ModelTable::Slots slots = models_.slots();

  MetricFamily slot{"attnd_decode_slots",
                    "Sequences that loaded models have room for: busy, free.",
                    MetricType::Gauge,
                    {}};
  slot.metric.push_back(GaugeSample({{"state", "busy"}}, static_cast<double>(slots.busy)));
  slot.metric.push_back(
      GaugeSample({{"state", "free"}}, static_cast<double>(slots.all - slots.busy)));

  MetricFamily sessions{"attnd_sessions",
                        "Sessions whose state is in memory (host) or not (store), in use (busy) "
                        "or not (idle).",
                        MetricType::Gauge,
                        {}};
  const auto add = [&](const char* tier, const char* state, size_t count) {
    sessions.metric.push_back(
        GaugeSample({{"tier", tier}, {"state", state}}, static_cast<double>(count)));
  };
  add("host", "busy", now.busy);
  add("host", "idle", now.states - now.busy);
  // The store's count is an estimate.
  add("store", "idle",
      now.sessions - now.states +
          (stored.sessions - std::min<size_t>(stored.sessions, now.durable)));

  MetricFamily bytes{"attnd_session_state_bytes",
                     "Bytes of states in memory (host) and in the store.",
                     MetricType::Gauge,
                     {}};
  bytes.metric.push_back(GaugeSample({{"tier", "host"}}, static_cast<double>(now.state_bytes)));
  bytes.metric.push_back(GaugeSample({{"tier", "store"}}, static_cast<double>(stored.state_bytes)));

  return {
      slot,
      sessions,
      bytes,
      SingleMetric("attnd_session_slots_used_ratio",
                   "Share of the memory for states that is in use.", MetricType::Gauge,
                   static_cast<double>(now.state_bytes) / static_cast<double>(now.max_state_bytes)),
      SingleMetric("attnd_store_log_bytes", "Bytes of all sessions' logs in the store.",
                   MetricType::Gauge, static_cast<double>(stored.log_bytes)),
      SingleMetric("attnd_store_segments_live_ratio",
                   "Share of the store's bytes of states that are not waiting to be removed.",
                   MetricType::Gauge,
                   stored.state_file_bytes == 0
                       ? 1
                       : std::min(1.0, static_cast<double>(stored.state_bytes) /
                                           static_cast<double>(stored.state_file_bytes)))};
}

}  // namespace attnd
