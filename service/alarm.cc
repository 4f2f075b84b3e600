#include "service/alarm.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <cstdint>
#include <utility>

namespace attnd {

Alarm::Alarm(std::function<void()> ring)
    : ring_(std::move(ring)),
      timer_(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK)),
      stop_(eventfd(0, EFD_CLOEXEC)) {
  if (timer_ >= 0 && stop_ >= 0) thread_ = std::thread([this] { Run(); });
}

Alarm::~Alarm() {
  if (works()) {
    eventfd_write(stop_, 1);
    thread_.join();
  }
  if (timer_ >= 0) close(timer_);
  if (stop_ >= 0) close(stop_);
}

void Alarm::Set(absl::Duration from_now) {
  itimerspec when = {};
  when.it_value = absl::ToTimespec(from_now);
  timerfd_settime(timer_, 0, &when, nullptr);
}

void Alarm::Run() {
  pollfd files[] = {{timer_, POLLIN, 0}, {stop_, POLLIN, 0}};
  while (true) {
    if (poll(files, std::size(files), -1) < 0) continue;
    if (files[1].revents != 0) return;
    // Nothing to read where it was set anew just now.
    uint64_t times = 0;
    if (read(timer_, &times, sizeof(times)) == sizeof(times)) ring_();
  }
}

}  // namespace attnd
