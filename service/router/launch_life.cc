#include "service/router/launch_life.h"

#include <algorithm>
#include <utility>

#include "service/clock.h"

namespace attnd {

LaunchLife::~LaunchLife() {
  if (!watching_) return;
  for (const Caller& caller : callers_) {
    if (caller.cancel != nullptr) caller.cancel->Unwatch(this);
  }
}

void LaunchLife::Add(const QueuedCall& call) { callers_.push_back({call.cancel, call.deadline}); }

absl::Time LaunchLife::deadline() const {
  absl::Time latest = absl::InfinitePast();
  for (const Caller& caller : callers_) {
    if (!caller.cancelled()) latest = std::max(latest, caller.deadline);
  }
  return latest;
}

bool LaunchLife::over() const {
  size_t left = left_.load(std::memory_order_relaxed);
  for (; left < callers_.size(); ++left) {
    const Caller& caller = callers_[left];
    if (caller.cancelled()) continue;
    if (caller.deadline == absl::InfiniteFuture() || MonotonicNow() < caller.deadline) break;
  }
  left_.store(left, std::memory_order_relaxed);
  return left == callers_.size();
}

void LaunchLife::WhenOver(absl::AnyInvocable<void()> stop) {
  {
    absl::MutexLock lock(&mu_);
    stop_ = std::move(stop);
  }
  watching_ = true;
  bool some_left = false;
  for (const Caller& caller : callers_) {
    if (caller.cancel != nullptr && !caller.cancel->Watch(shared_from_this())) some_left = true;
  }
  if (some_left) OnCancel();
}

void LaunchLife::OnCancel() {
  if (!over()) return;
  absl::AnyInvocable<void()> stop;
  {
    absl::MutexLock lock(&mu_);
    stop = std::move(stop_);
    stop_ = nullptr;
  }
  if (stop != nullptr) stop();
}

}  // namespace attnd
