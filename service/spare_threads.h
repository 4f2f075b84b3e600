// Fewer of gRPC's threads where one call at a time comes.
#ifndef ATTND_SERVICE_SPARE_THREADS_H_
#define ATTND_SERVICE_SPARE_THREADS_H_

#include <grpcpp/channel.h>
#include <grpcpp/support/server_interceptor.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "service/alarm.h"

namespace attnd {

// gRPC 1.51 runs callbacks on two threads and more, which take turns at waiting for the network:
// whoever gets an event wakes another before it works, and every message sent wakes one, too
// (gRPC's src/cpp/common/completion_queue_cc.cc and src/core/lib/iomgr/ev_epoll1_linux.cc). With
// one small call at a time these turns are half of what a process does for it. So all threads but
// one are held in a callback while calls come one by one, and let go when two are under way at a
// time, a message is large, or a call takes long: whoever comes meanwhile is not kept waiting for
// the one thread's work. They are the process's, so a process has one of these. Thread-safe;
// without gRPC's threads of that kind it does nothing.
class SpareThreads {
 public:
  using TakesBytes = std::function<bool(absl::string_view method)>;

  // Calls in a row that come alone before threads are held.
  static constexpr int kAlone = 32;
  // Messages from here on take long enough for a second call to be kept waiting.
  static constexpr size_t kLargeBytes = size_t{64} << 10;
  // Calls that take longer have nothing to gain from it, and may be all that the one thread does.
  static constexpr absl::Duration kLong = absl::Milliseconds(1);

  // Requests of `takes_bytes` methods reach the server as grpc::ByteBuffer. Threads are held at
  // most for `most` without a look at whether calls still come, and let go when a call has been
  // under way for `long_call`.
  explicit SpareThreads(TakesBytes takes_bytes, absl::Duration most = absl::Seconds(1),
                        absl::Duration long_call = kLong);
  ~SpareThreads() { Stop(); }

  // To be given to a ServerBuilder: tells of unary calls, and of the messages of streams. The
  // factory must not outlive this.
  std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeInterceptorFactory();

  // Threads may be held from now on. The channel may lead anywhere: nothing is sent on it.
  void Start(std::shared_ptr<grpc::Channel> channel);
  // Lets go of all threads, for good.
  void Stop();

  // A call comes, and is answered. So many earlier ones may seem to be under way though they are
  // answered.
  void Begin(int ending = 0);
  void End() { under_way_.fetch_sub(1, std::memory_order_relaxed); }
  // Something comes that several threads are good for.
  void Busy();

  // Threads that are held now.
  int held() const;

 private:
  void Hold();
  void Wait(uint64_t hold);

  class Interceptor;
  class Factory;

  const TakesBytes takes_bytes_;
  const absl::Duration most_;
  const absl::Duration long_call_;
  std::atomic<int> under_way_{0};
  std::atomic<int> alone_{0};
  std::atomic<int> overlaps_{0};
  std::atomic<bool> holding_{false};
  mutable absl::Mutex mu_;
  std::shared_ptr<grpc::Channel> channel_ ABSL_GUARDED_BY(mu_);
  uint64_t hold_ ABSL_GUARDED_BY(mu_) = 0;  // Changes when it begins and when it ends.
  int held_ ABSL_GUARDED_BY(mu_) = 0;
  int asked_ ABSL_GUARDED_BY(mu_) = 0;  // Held, or about to be, or about to go.
  Alarm too_long_;                      // Set by every call that comes while threads are held.
};

// Threads of this process that run gRPC's callbacks. They begin with the first server or channel, a
// little later than it, and end with the last.
int CallbackThreads();

}  // namespace attnd

#endif  // ATTND_SERVICE_SPARE_THREADS_H_
