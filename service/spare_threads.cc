#include "service/spare_threads.h"

#include <grpcpp/client_context.h>
#include <grpcpp/generic/generic_stub.h>

#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/strip.h"

namespace attnd {
namespace {

// gRPC's name for them.
constexpr char kThreadName[] = "nexting_thread";

// A client that has its answer may send the next call before the server is done with the last: one
// overlap is none, unless another comes within so many calls.
constexpr int kOverlap = 8;

// Runs `callback` on one of the threads that run callbacks: as the end of a call that was cancelled
// before it began.
void OnCallbackThread(const std::shared_ptr<grpc::Channel>& channel,
                      std::function<void()> callback) {
  struct Call {
    grpc::ClientContext context;
    grpc::Slice nothing;
    grpc::ByteBuffer request{&nothing, 1}, response;
  };
  auto call = std::make_unique<Call>();
  Call& c = *call;
  c.context.TryCancel();
  grpc::GenericStub(channel).UnaryCall(
      &c.context, "/attnd/nothing", grpc::StubOptions(), &c.request, &c.response,
      [call = call.release(), callback = std::move(callback)](const grpc::Status&) {
        delete call;  // gRPC copies its callbacks, so that nothing in them can own it.
        callback();
      });
}

}  // namespace

int CallbackThreads() {
  int threads = 0;
  std::error_code error;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task", error)) {
    std::string name;
    std::getline(std::ifstream(task.path() / "comm"), name);
    if (name == kThreadName) ++threads;
  }
  return threads;
}

class SpareThreads::Interceptor final : public grpc::experimental::Interceptor {
 public:
  Interceptor(SpareThreads& spare, const grpc::experimental::ServerRpcInfo& info)
      : spare_(spare),
        unary_(info.type() == grpc::experimental::ServerRpcInfo::Type::UNARY),
        takes_bytes_(unary_ && spare.takes_bytes_(absl::StripPrefix(info.method(), "/"))) {
    // Its end is told when gRPC has done with it, well after its answer has gone.
    if (unary_) spare_.Begin(1);
  }
  ~Interceptor() override {
    if (unary_) spare_.End();
  }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    using grpc::experimental::InterceptionHookPoints;
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_MESSAGE)) {
      const void* message = methods->GetRecvMessage();
      if (message != nullptr && IsLarge(message)) spare_.Busy();
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_MESSAGE) &&
        methods->GetSerializedSendMessage()->Length() >= kLargeBytes) {
      spare_.Busy();
    }
    methods->Proceed();
  }

 private:
  // What a stream brings is for several threads, whatever its size: more is to come.
  bool IsLarge(const void* message) const {
    if (!unary_) return true;
    return takes_bytes_ && static_cast<const grpc::ByteBuffer*>(message)->Length() >= kLargeBytes;
  }

  SpareThreads& spare_;
  const bool unary_;
  const bool takes_bytes_;
};

class SpareThreads::Factory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit Factory(SpareThreads& spare) : spare_(spare) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    using Type = grpc::experimental::ServerRpcInfo::Type;
    // Streams of small launches tell of each themselves; those that only watch bring nothing.
    const bool counts =
        info->type() == Type::UNARY ||
        (info->type() == Type::BIDI_STREAMING && !absl::EndsWith(info->method(), "/ExecuteSmall"));
    // gRPC takes ownership.
    return counts ? std::make_unique<Interceptor>(spare_, *info).release() : nullptr;
  }

 private:
  SpareThreads& spare_;
};

SpareThreads::SpareThreads(TakesBytes takes_bytes, absl::Duration most, absl::Duration long_call)
    : takes_bytes_(std::move(takes_bytes)), most_(most), long_call_(long_call), too_long_([this] {
        if (under_way_.load(std::memory_order_relaxed) > 0) Busy();
      }) {}

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface>
SpareThreads::MakeInterceptorFactory() {
  return std::make_unique<Factory>(*this);
}

void SpareThreads::Start(std::shared_ptr<grpc::Channel> channel) {
  absl::MutexLock lock(&mu_);
  channel_ = std::move(channel);
}

void SpareThreads::Stop() {
  std::shared_ptr<grpc::Channel> channel;
  {
    absl::MutexLock lock(&mu_);
    channel = std::move(channel_);
  }
  Busy();
  const auto gone = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return asked_ == 0; };
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(&gone));
}

void SpareThreads::Begin(int ending) {
  if (under_way_.fetch_add(1, std::memory_order_relaxed) > ending) {
    alone_.store(0, std::memory_order_relaxed);
    if (overlaps_.fetch_add(kOverlap, std::memory_order_relaxed) > 0) Busy();
    return;
  }
  // Forgets an overlap after some calls that come alone.
  if (overlaps_.load(std::memory_order_relaxed) > 0) {
    overlaps_.fetch_sub(1, std::memory_order_relaxed);
  }
  if (holding_.load(std::memory_order_relaxed)) return too_long_.Set(long_call_);
  if (alone_.fetch_add(1, std::memory_order_relaxed) < kAlone) return;
  // This call, too, may be a long one.
  too_long_.Set(long_call_);
  Hold();
}

void SpareThreads::Busy() {
  alone_.store(0, std::memory_order_relaxed);
  if (!holding_.load()) return;
  absl::MutexLock lock(&mu_);
  if (!holding_.exchange(false)) return;
  overlaps_.store(0, std::memory_order_relaxed);
  ++hold_;
}

void SpareThreads::Hold() {
  alone_.store(0, std::memory_order_relaxed);
  if (!too_long_.works()) return;
  const int spare = CallbackThreads() - 1;
  uint64_t hold;
  std::shared_ptr<grpc::Channel> channel;
  {
    absl::MutexLock lock(&mu_);
    // Some of the last hold may not have gone yet.
    if (spare <= 0 || channel_ == nullptr || holding_.load() || asked_ > 0) return;
    hold = ++hold_;
    asked_ = spare;
    channel = channel_;
    holding_.store(true);
  }
  for (int i = 0; i < spare; ++i) OnCallbackThread(channel, [this, hold] { Wait(hold); });
}

void SpareThreads::Wait(uint64_t hold) {
  const auto over = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return hold_ != hold; };
  absl::MutexLock lock(&mu_);
  ++held_;
  mu_.AwaitWithTimeout(absl::Condition(&over), most_);
  if (!over()) {
    // Calls that still come one by one start it anew.
    ++hold_;
    holding_.store(false);
  }
  --held_;
  --asked_;
}

int SpareThreads::held() const {
  absl::MutexLock lock(&mu_);
  return held_;
}

}  // namespace attnd
