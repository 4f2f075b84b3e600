// One clock for everything that waits: intervals and deadlines inside a process never follow the
// wall clock.
#ifndef ATTND_SERVICE_CLOCK_H_
#define ATTND_SERVICE_CLOCK_H_

#include <chrono>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace attnd {

// Time since an arbitrary start, never set back. Compare it only with other values of this
// function.
inline absl::Time MonotonicNow() {
  return absl::UnixEpoch() + absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

// The point on the monotonic clock at which the wall clock will show `wall`.
inline absl::Time ToMonotonic(absl::Time wall) {
  if (wall == absl::InfiniteFuture()) return wall;
  return MonotonicNow() + (wall - absl::Now());
}

}  // namespace attnd

#endif  // ATTND_SERVICE_CLOCK_H_
