// Bucket borders that several families share.
#ifndef ATTND_SERVICE_METRICS_BUCKETS_H_
#define ATTND_SERVICE_METRICS_BUCKETS_H_

#include "prometheus/histogram.h"

namespace attnd {

// 100 us to a minute, each about twice the one before.
inline prometheus::Histogram::BucketBoundaries LatencyBuckets() {
  return {1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60};
}

// 10 us to a minute: what runs inside a call may be shorter than any call.
inline prometheus::Histogram::BucketBoundaries ComputeBuckets() {
  prometheus::Histogram::BucketBoundaries buckets = {1e-5, 2e-5, 5e-5};
  for (double border : LatencyBuckets()) buckets.push_back(border);
  return buckets;
}

// 1, 2, 4, ..., 1024.
inline prometheus::Histogram::BucketBoundaries BatchBuckets() {
  prometheus::Histogram::BucketBoundaries buckets;
  for (double size = 1; size <= 1024; size *= 2) buckets.push_back(size);
  return buckets;
}

// 1e-10, 1e-9, ..., 1.
inline prometheus::Histogram::BucketBoundaries ErrorBuckets() {
  return {1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1};
}

}  // namespace attnd

#endif  // ATTND_SERVICE_METRICS_BUCKETS_H_
