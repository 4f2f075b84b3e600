// Counts every RPC of a server, whatever its service: by method and code, duration, calls under
// way; bytes of their messages either way.
#ifndef ATTND_SERVICE_METRICS_RPC_METRICS_H_
#define ATTND_SERVICE_METRICS_RPC_METRICS_H_

#include <grpcpp/support/server_interceptor.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace attnd {

// Of one method, as "attnd.v1.Operators/Evaluate".
class MethodMetrics {
 public:
  MethodMetrics(prometheus::Family<prometheus::Counter>& requests, prometheus::Histogram& duration,
                prometheus::Gauge& in_flight, std::string method, bool takes_bytes);

  void Started() { in_flight_.Increment(); }
  // `code` is a gRPC status code.
  void Finished(int code, double seconds);
  bool takes_bytes() const { return takes_bytes_; }

 private:
  prometheus::Family<prometheus::Counter>& requests_family_;
  const std::string method_;
  const bool takes_bytes_;
  prometheus::Histogram& duration_;
  prometheus::Gauge& in_flight_;
  std::array<std::atomic<prometheus::Counter*>, 17>
      requests_{};  // By code, made when first needed.
};

class RpcMetrics {
 public:
  // Whether a method's requests reach the server as grpc::ByteBuffer; those of the others must be
  // protobuf messages. Methods are named as in MethodMetrics.
  using TakesBytes = std::function<bool(absl::string_view method)>;
  // By default none does, but those of gRPC's own health service, which always do.
  explicit RpcMetrics(
      prometheus::Registry& registry,
      TakesBytes takes_bytes = [](absl::string_view) { return false; });

  // A method that no service has is counted as "unknown".
  MethodMetrics& Of(absl::string_view method);
  void Received(size_t bytes) { received_.Increment(static_cast<double>(bytes)); }
  void Sent(size_t bytes) { sent_.Increment(static_cast<double>(bytes)); }

  // RPCs under way that a server which stops waits for, but for those that came after StopOwing:
  // they are refused. Watchers of health and the like are never waited for.
  struct Owed {
    int64_t answers = 0;  // That bring one call and end with its answer.
    int64_t streams = 0;  // Of many calls, which go on as long as their clients like.
  };
  Owed owed() const { return {owed_answers_.load(), owed_streams_.load()}; }
  void StopOwing() { owing_.store(false); }
  // The count that an RPC is in until it ends; null: in none.
  std::atomic<int64_t>* CountOwed(absl::string_view method, bool unary);

  // To be given to a ServerBuilder. The metrics must outlive the server.
  std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeInterceptorFactory();

 private:
  const TakesBytes takes_bytes_;
  prometheus::Family<prometheus::Counter>& requests_;
  prometheus::Family<prometheus::Histogram>& durations_;
  prometheus::Family<prometheus::Gauge>& in_flight_;
  prometheus::Counter& received_;
  prometheus::Counter& sent_;
  std::atomic<bool> owing_ = true;
  std::atomic<int64_t> owed_answers_ = 0;
  std::atomic<int64_t> owed_streams_ = 0;
  absl::Mutex mu_;
  // Methods that exist, and one entry for all others: clients may call whatever name they like.
  std::map<std::string, std::unique_ptr<MethodMetrics>, std::less<>> methods_ ABSL_GUARDED_BY(mu_);
};

}  // namespace attnd

#endif  // ATTND_SERVICE_METRICS_RPC_METRICS_H_
