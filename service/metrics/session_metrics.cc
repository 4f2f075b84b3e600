#include "service/metrics/session_metrics.h"

#include <string>

#include "service/metrics/buckets.h"
#include "service/metrics/code_name.h"

namespace attnd {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildHistogram;

const char* Name(SessionMetrics::Tier tier) {
  switch (tier) {
    case SessionMetrics::Tier::kHost:
      return "host";
    case SessionMetrics::Tier::kStore:
      return "store";
    case SessionMetrics::Tier::kTokens:
      break;
  }
  return "tokens";
}

prometheus::Counter& Counter(prometheus::Registry& registry, const char* name, const char* help) {
  return BuildCounter().Name(name).Help(help).Register(registry).Add({});
}

prometheus::Histogram& Latency(prometheus::Registry& registry, const char* name, const char* help) {
  return BuildHistogram().Name(name).Help(help).Register(registry).Add({}, ComputeBuckets());
}

}  // namespace

SessionMetrics::SessionMetrics(prometheus::Registry& registry)
    : restores_(BuildCounter()
                    .Name("attnd_session_restores_total")
                    .Help("States that sessions went on from without having them at hand: from "
                          "memory (host), the store, or their tokens alone.")
                    .Register(registry)),
      restore_seconds_(BuildHistogram()
                           .Name("attnd_session_restore_seconds")
                           .Help("Time to get such a state, without reading tokens again.")
                           .Register(registry)),
      resumes_(BuildCounter()
                   .Name("attnd_session_resume_total")
                   .Help("Decodes that were asked for again: over by then (complete), or going on "
                         "(open).")
                   .Register(registry)),
      expired_(BuildCounter()
                   .Name("attnd_session_expired_total")
                   .Help("Sessions deleted by the server, by cause.")
                   .Register(registry)),
      writes_(BuildCounter()
                  .Name("attnd_store_write_bytes_total")
                  .Help("Bytes handed to the store: of logs, of states.")
                  .Register(registry)),
      store_errors_(BuildCounter()
                        .Name("attnd_store_errors_total")
                        .Help("Calls of the store that failed, but for what is not there.")
                        .Register(registry)),
      first_token(Latency(registry, "attnd_time_to_first_token_seconds",
                          "From the arrival of a decode to its first token.")),
      inter_token(
          Latency(registry, "attnd_inter_token_seconds", "Between two tokens of a decode.")),
      step(Latency(registry, "attnd_decode_step_seconds",
                   "One step of a model, over all sequences that share it.")),
      generated(Counter(registry, "attnd_tokens_generated_total", "Tokens sampled.")),
      prefilled(Counter(registry, "attnd_tokens_prefilled_total", "Tokens of prompts read.")),
      replayed(Counter(registry, "attnd_session_replayed_tokens_total",
                       "Tokens read again, because a state that had read them was not kept.")),
      forks(Counter(registry, "attnd_session_forks_total", "Sessions forked.")),
      rewinds(Counter(registry, "attnd_session_rewinds_total",
                      "Sessions taken back to a position or a snapshot.")),
      evictions(Counter(registry, "attnd_session_evictions_total",
                        "States moved to the store to make room in memory.")),
      trims(Counter(registry, "attnd_session_trims_total",
                    "Times an operator's session forgot its oldest inputs.")),
      fenced(Counter(registry, "attnd_session_fenced_total",
                     "Writes refused because another owner has the session by now.")),
      expired_idle(expired_.Add({{"cause", "idle"}})),
      resumed_complete(resumes_.Add({{"result", "complete"}})),
      resumed_open(resumes_.Add({{"result", "open"}})),
      log_bytes(writes_.Add({{"kind", "log"}})),
      state_bytes(writes_.Add({{"kind", "state"}})),
      sync(Latency(registry, "attnd_store_sync_seconds",
                   "Writes that return when they are on the medium.")),
      corruptions(Counter(registry, "attnd_store_corruptions_total",
                          "Damage that the store found in what it holds.")),
      foreign_states(Counter(registry, "attnd_store_foreign_states_total",
                             "States in the store that were passed over because a device of "
                             "another kind computed them.")) {
  for (const Tier tier : {Tier::kHost, Tier::kStore, Tier::kTokens}) {
    restore_seconds_.Add({{"from_tier", Name(tier)}}, ComputeBuckets());
    restores_.Add({{"from_tier", Name(tier)}, {"result", "ok"}});
  }
}

void SessionMetrics::RecordRestore(Tier from, const absl::Status& status, absl::Duration duration) {
  restores_.Add({{"from_tier", Name(from)}, {"result", status.ok() ? "ok" : "error"}}).Increment();
  restore_seconds_.Add({{"from_tier", Name(from)}}, ComputeBuckets())
      .Observe(absl::ToDoubleSeconds(duration));
}

void SessionMetrics::RecordStoreCall(absl::string_view op, const absl::Status& status) {
  if (status.ok() || absl::IsNotFound(status)) return;
  if (absl::IsDataLoss(status)) corruptions.Increment();
  if (absl::IsAborted(status)) fenced.Increment();
  store_errors_.Add({{"op", std::string(op)}, {"code", std::string(CodeName(status.code()))}})
      .Increment();
}

}  // namespace attnd
