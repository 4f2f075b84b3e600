// Loads on a gRPC method and what they cost: closed (a fixed number of calls in flight) and open
// (calls start on a fixed schedule, whether or not earlier ones have come back).
#ifndef ATTND_BENCH_LOAD_H_
#define ATTND_BENCH_LOAD_H_

#include <functional>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/time/time.h"

namespace attnd::bench {

// Starts one call; calls back once, with whether it succeeded, from any thread.
using StartCall = std::function<void(std::function<void(bool ok)> done)>;

struct LoadResult {
  double seconds = 0;
  long calls = 0;
  long failures = 0;
  // Of every successful call, in microseconds, sorted. Under an open load counted from the moment
  // the schedule asked for the call, so a stall is charged to every call that it delayed (no
  // coordinated omission).
  std::vector<double> latencies_us;

  double CallsPerSecond() const { return seconds > 0 ? static_cast<double>(calls) / seconds : 0; }
  // q in [0,1]; 0 if there were no calls.
  double Percentile(double q) const;
  // Another round of the same load.
  void Add(const LoadResult& round);
};

// What reports say of a load.
nlohmann::json Summary(const LoadResult& result);

// Keeps `concurrency` calls in flight for `duration`.
LoadResult ClosedLoad(const StartCall& start, int concurrency, absl::Duration duration);

// Starts calls every 1/rate seconds for `duration`, then waits for the last.
LoadResult OpenLoad(const StartCall& start, double calls_per_second, absl::Duration duration);

}  // namespace attnd::bench

#endif  // ATTND_BENCH_LOAD_H_
