#include "bench/load.h"

#include <algorithm>
#include <cmath>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"

namespace attnd::bench {
namespace {

// Exact samples of a run; every sample is kept, so percentiles need no buckets.
class Recorder {
 public:
  void Started() {
    absl::MutexLock lock(&mutex_);
    ++in_flight_;
  }
  void Finished(absl::Time intended, bool ok) {
    const double us = absl::ToDoubleMicroseconds(absl::Now() - intended);
    absl::MutexLock lock(&mutex_);
    --in_flight_;
    if (ok) {
      samples_.push_back(us);
    } else {
      ++failures_;
    }
  }
  LoadResult WaitAndTake(absl::Time begin) {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(
        +[](int* in_flight) { return *in_flight == 0; }, &in_flight_));
    LoadResult result;
    result.seconds = absl::ToDoubleSeconds(absl::Now() - begin);
    result.calls = static_cast<long>(samples_.size());
    result.failures = failures_;
    result.latencies_us = std::move(samples_);
    std::sort(result.latencies_us.begin(), result.latencies_us.end());
    return result;
  }

 private:
  absl::Mutex mutex_;
  int in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
  long failures_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<double> samples_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

double LoadResult::Percentile(double q) const {
  if (latencies_us.empty()) return 0;
  const auto rank = static_cast<size_t>(std::ceil(q * static_cast<double>(latencies_us.size())));
  return latencies_us[std::min(latencies_us.size() - 1, rank > 0 ? rank - 1 : 0)];
}

void LoadResult::Add(const LoadResult& round) {
  seconds += round.seconds;
  calls += round.calls;
  failures += round.failures;
  const auto middle = static_cast<ptrdiff_t>(latencies_us.size());
  latencies_us.insert(latencies_us.end(), round.latencies_us.begin(), round.latencies_us.end());
  std::inplace_merge(latencies_us.begin(), latencies_us.begin() + middle, latencies_us.end());
}

nlohmann::json Summary(const LoadResult& result) {
  return {{"calls_per_second", result.CallsPerSecond()},
          {"failures", result.failures},
          {"p50_us", result.Percentile(0.5)},
          {"p90_us", result.Percentile(0.9)},
          {"p99_us", result.Percentile(0.99)},
          {"p999_us", result.Percentile(0.999)}};
}

LoadResult ClosedLoad(const StartCall& start, int concurrency, absl::Duration duration) {
  Recorder recorder;
  const absl::Time begin = absl::Now();
  const absl::Time end = begin + duration;
  // Every finished call starts the next from its own callback, until time is up.
  std::function<void()> next = [&] {
    const absl::Time intended = absl::Now();
    start([&, intended](bool ok) {
      if (absl::Now() < end) {
        recorder.Started();
        recorder.Finished(intended, ok);
        next();
      } else {
        recorder.Finished(intended, ok);
      }
    });
  };
  for (int i = 0; i < concurrency; ++i) recorder.Started();
  for (int i = 0; i < concurrency; ++i) next();
  return recorder.WaitAndTake(begin);
}

LoadResult OpenLoad(const StartCall& start, double calls_per_second, absl::Duration duration) {
  Recorder recorder;
  const absl::Time begin = absl::Now();
  const auto count = static_cast<long>(calls_per_second * absl::ToDoubleSeconds(duration));
  for (long i = 0; i < count; ++i) {
    const absl::Time intended = begin + absl::Seconds(static_cast<double>(i) / calls_per_second);
    const absl::Duration ahead = intended - absl::Now();
    if (ahead > absl::Microseconds(100)) {
      absl::SleepFor(ahead - absl::Microseconds(60));
    }
    while (absl::Now() < intended) std::this_thread::yield();
    recorder.Started();
    start([&recorder, intended](bool ok) { recorder.Finished(intended, ok); });
  }
  return recorder.WaitAndTake(begin);
}

}  // namespace attnd::bench
