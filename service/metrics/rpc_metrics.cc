#include "service/metrics/rpc_metrics.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "service/clock.h"
#include "service/log.h"
#include "service/metrics/buckets.h"
#include "service/metrics/engine_metrics.h"

namespace attnd {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::InterceptorBatchMethods;

constexpr absl::string_view kHealth = "grpc.health.v1.Health/";
constexpr absl::string_view kUnknown = "unknown";

bool Exists(absl::string_view method) {
  // gRPC's own health service has no descriptor.
  if (absl::ConsumePrefix(&method, kHealth)) return method == "Check" || method == "Watch";
  const std::pair<std::string, std::string> names = absl::StrSplit(method, absl::MaxSplits('/', 1));
  const google::protobuf::ServiceDescriptor* service =
      google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(names.first);
  return service != nullptr && service->FindMethodByName(names.second) != nullptr;
}

// Lives as long as the RPC does.
class RpcInterceptor final : public grpc::experimental::Interceptor {
 public:
  RpcInterceptor(RpcMetrics& all, const grpc::experimental::ServerRpcInfo& info)
      : all_(all),
        metrics_(all.Of(info.method())),
        method_(info.method()),
        owed_(
            all.CountOwed(method_, info.type() == grpc::experimental::ServerRpcInfo::Type::UNARY)),
        start_(MonotonicNow()) {
    if (owed_ != nullptr) owed_->fetch_add(1);
    metrics_.Started();
  }

  ~RpcInterceptor() override {
    const double seconds = absl::ToDoubleSeconds(MonotonicNow() - start_);
    metrics_.Finished(code_, seconds);
    if (owed_ != nullptr) owed_->fetch_sub(1);
    if (LogEnabled(LogLevel::kDebug)) {
      Log(LogLevel::kDebug, "rpc",
          {{"method", method_},
           {"code", CodeName(static_cast<absl::StatusCode>(code_))},
           {"seconds", seconds}});
    }
  }

  void Intercept(InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_MESSAGE)) {
      if (const void* message = methods->GetRecvMessage()) all_.Received(SizeOf(message));
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_MESSAGE)) {
      all_.Sent(methods->GetSerializedSendMessage()->Length());
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      const grpc::Status status = methods->GetSendStatus();
      code_ = status.error_code();
      // So gRPC ends the health of a client that has left.
      if (code_ == grpc::StatusCode::UNKNOWN &&
          absl::StartsWith(absl::StripPrefix(method_, "/"), kHealth)) {
        code_ = grpc::StatusCode::CANCELLED;
      }
      // What the server is to blame for; the rest is in the counters.
      if (code_ == grpc::StatusCode::INTERNAL || code_ == grpc::StatusCode::DATA_LOSS ||
          code_ == grpc::StatusCode::UNKNOWN) {
        Log(LogLevel::kWarn, "rpc failed",
            {{"method", method_}, {"error", status.error_message()}});
      }
    }
    methods->Proceed();
  }

 private:
  // gRPC tells what came, but not of which type.
  size_t SizeOf(const void* message) const {
    return metrics_.takes_bytes()
               ? static_cast<const grpc::ByteBuffer*>(message)->Length()
               : static_cast<const google::protobuf::Message*>(message)->ByteSizeLong();
  }

  RpcMetrics& all_;
  MethodMetrics& metrics_;
  const char* const method_;
  std::atomic<int64_t>* const owed_;
  const absl::Time start_;
  int code_ = grpc::StatusCode::CANCELLED;  // Unless a status is sent.
};

class Factory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit Factory(RpcMetrics& metrics) : metrics_(metrics) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    // gRPC takes ownership.
    return std::make_unique<RpcInterceptor>(metrics_, *info).release();
  }

 private:
  RpcMetrics& metrics_;
};

}  // namespace

MethodMetrics::MethodMetrics(prometheus::Family<prometheus::Counter>& requests,
                             prometheus::Histogram& duration, prometheus::Gauge& in_flight,
                             std::string method, bool takes_bytes)
    : requests_family_(requests),
      method_(std::move(method)),
      takes_bytes_(takes_bytes),
      duration_(duration),
      in_flight_(in_flight) {}

void MethodMetrics::Finished(int code, double seconds) {
  if (code < 0 || code > 16) code = grpc::StatusCode::UNKNOWN;
  prometheus::Counter* counter = requests_[code].load(std::memory_order_acquire);
  if (counter == nullptr) {
    // Adding the same labels twice gives the same counter, so a race does no harm.
    counter = &requests_family_.Add(
        {{"method", method_},
         {"code", std::string(CodeName(static_cast<absl::StatusCode>(code)))}});
    requests_[code].store(counter, std::memory_order_release);
  }
  counter->Increment();
  duration_.Observe(seconds);
  in_flight_.Decrement();
}

RpcMetrics::RpcMetrics(prometheus::Registry& registry, TakesBytes takes_bytes)
    : takes_bytes_(std::move(takes_bytes)),
      requests_(prometheus::BuildCounter()
                    .Name("attnd_rpc_requests_total")
                    .Help("RPCs that ended, by method and code.")
                    .Register(registry)),
      durations_(prometheus::BuildHistogram()
                     .Name("attnd_rpc_duration_seconds")
                     .Help("From the start of an RPC to its end, as the server sees it.")
                     .Register(registry)),
      in_flight_(prometheus::BuildGauge()
                     .Name("attnd_rpc_in_flight")
                     .Help("RPCs under way.")
                     .Register(registry)),
      received_(prometheus::BuildCounter()
                    .Name("attnd_rpc_received_bytes_total")
                    .Help("Bytes of the messages that came, without what HTTP/2 adds.")
                    .Register(registry)
                    .Add({})),
      sent_(prometheus::BuildCounter()
                .Name("attnd_rpc_sent_bytes_total")
                .Help("Bytes of the messages that were sent, without what HTTP/2 adds.")
                .Register(registry)
                .Add({})) {}

MethodMetrics& RpcMetrics::Of(absl::string_view method) {
  if (!method.empty() && method.front() == '/') method.remove_prefix(1);
  {
    absl::ReaderMutexLock lock(&mu_);
    const auto found = methods_.find(method);
    if (found != methods_.end()) return *found->second;
  }
  if (method != kUnknown && !Exists(method)) return Of(kUnknown);
  absl::MutexLock lock(&mu_);
  auto& slot = methods_[std::string(method)];
  if (slot == nullptr) {
    const prometheus::Labels labels = {{"method", std::string(method)}};
    slot = std::make_unique<MethodMetrics>(
        requests_, durations_.Add(labels, LatencyBuckets()), in_flight_.Add(labels),
        std::string(method),
        method == kUnknown || absl::StartsWith(method, kHealth) || takes_bytes_(method));
  }
  return *slot;
}

std::atomic<int64_t>* RpcMetrics::CountOwed(absl::string_view method, bool unary) {
  if (!owing_.load()) return nullptr;
  // One call each, in as many messages as it takes; or one launch at a time, until the worker ends
  // it.
  for (const char* name : {"/EvaluateStream", "/Execute", "/ExecuteSmall"})
    unary |= absl::EndsWith(method, name);
  if (unary) return &owed_answers_;
  for (const char* name : {"/EvaluateBatch", "/ModelStreamInfer"}) {
    if (absl::EndsWith(method, name)) return &owed_streams_;
  }
  return nullptr;
}

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>
RpcMetrics::MakeInterceptorFactory() {
  return std::make_unique<Factory>(*this);
}

}  // namespace attnd
