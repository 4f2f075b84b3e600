// SIGTERM and SIGINT: the first asks the program to stop, the second ends it at once.
#ifndef ATTND_SERVICE_STOP_SIGNAL_H_
#define ATTND_SERVICE_STOP_SIGNAL_H_

#include <csignal>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace attnd {

class StopSignal {
 public:
  // Blocks both signals in this thread and in every thread that it starts from now on: make it
  // first.
  StopSignal();
  ~StopSignal();

  bool requested() const;
  // Waits for the first signal, at most `timeout`; returns whether it came.
  bool Wait(absl::Duration timeout) const;

 private:
  void Listen();

  sigset_t signals_;
  mutable absl::Mutex mu_;
  bool requested_ ABSL_GUARDED_BY(mu_) = false;
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  std::thread listener_;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_STOP_SIGNAL_H_
