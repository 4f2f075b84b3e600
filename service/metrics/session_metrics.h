// The metric families of decode, sessions and their store. Label values come from closed sets.
#ifndef ATTND_SERVICE_METRICS_SESSION_METRICS_H_
#define ATTND_SERVICE_METRICS_SESSION_METRICS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace attnd {

class SessionMetrics {
 public:
  explicit SessionMetrics(prometheus::Registry& registry);

  // Where a state came from: memory, the store, or the tokens alone.
  enum class Tier : uint8_t { kHost, kStore, kTokens };
  void RecordRestore(Tier from, const absl::Status& status, absl::Duration duration);

  // What a call of the store brought: `op` is one of a fixed few.
  void RecordStoreCall(absl::string_view op, const absl::Status& status);

 private:
  prometheus::Family<prometheus::Counter>& restores_;
  prometheus::Family<prometheus::Histogram>& restore_seconds_;
  prometheus::Family<prometheus::Counter>& resumes_;
  prometheus::Family<prometheus::Counter>& expired_;
  prometheus::Family<prometheus::Counter>& writes_;
  prometheus::Family<prometheus::Counter>& store_errors_;

 public:
  prometheus::Histogram& first_token;  // From a decode's arrival to its first token.
  prometheus::Histogram& inter_token;
  prometheus::Histogram& step;
  prometheus::Counter& generated;
  prometheus::Counter& prefilled;
  prometheus::Counter& replayed;
  prometheus::Counter& forks;
  prometheus::Counter& rewinds;
  prometheus::Counter& evictions;
  prometheus::Counter& trims;
  prometheus::Counter& fenced;
  prometheus::Counter& expired_idle;
  // Decodes taken up again by who asked for them before: those that were over, and those that go
  // on.
  prometheus::Counter& resumed_complete;
  prometheus::Counter& resumed_open;
  prometheus::Counter& log_bytes;
  prometheus::Counter& state_bytes;
  prometheus::Histogram& sync;
  prometheus::Counter& corruptions;
  prometheus::Counter& foreign_states;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_METRICS_SESSION_METRICS_H_
