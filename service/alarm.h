#ifndef ATTND_SERVICE_ALARM_H_
#define ATTND_SERVICE_ALARM_H_

#include <functional>
#include <thread>

#include "absl/time/time.h"

namespace attnd {

// Rings once it was not set anew for as long as it was set to last. Setting it is a system call and
// wakes nobody. Thread-safe.
class Alarm {
 public:
  // `ring` runs on a thread of the alarm's own.
  explicit Alarm(std::function<void()> ring);
  // Waits for `ring` where it runs.
  ~Alarm();
  Alarm(const Alarm&) = delete;
  Alarm& operator=(const Alarm&) = delete;

  // False if the system has no timer to spare: it will never ring.
  bool works() const { return thread_.joinable(); }

  void Set(absl::Duration from_now);

 private:
  void Run();

  const std::function<void()> ring_;
  const int timer_;
  const int stop_;
  std::thread thread_;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_ALARM_H_
