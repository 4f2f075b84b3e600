#include "service/stop_signal.h"

#include <pthread.h>
#include <unistd.h>

#include "service/log.h"

namespace attnd {

StopSignal::StopSignal() {
  sigemptyset(&signals_);
  sigaddset(&signals_, SIGTERM);
  sigaddset(&signals_, SIGINT);
  sigaddset(&signals_, SIGUSR1);  // Wakes the listener at the end.
  pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
  listener_ = std::thread([this] { Listen(); });
}

StopSignal::~StopSignal() {
  {
    absl::MutexLock lock(&mu_);
    ending_ = true;
  }
  pthread_kill(listener_.native_handle(), SIGUSR1);
  listener_.join();
}

void StopSignal::Listen() {
  while (true) {
    int signal = 0;
    sigwait(&signals_, &signal);
    absl::MutexLock lock(&mu_);
    if (ending_) return;
    if (signal == SIGUSR1) continue;
    if (requested_) {
      Log(LogLevel::kWarn, "second signal: stopping now");
      _exit(1);
    }
    requested_ = true;
  }
}

bool StopSignal::requested() const {
  absl::MutexLock lock(&mu_);
  return requested_;
}

bool StopSignal::Wait(absl::Duration timeout) const {
  absl::MutexLock lock(&mu_);
  return mu_.AwaitWithTimeout(absl::Condition(&requested_), timeout);
}

}  // namespace attnd
