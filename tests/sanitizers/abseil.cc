// Tells ThreadSanitizer of the order that Abseil's locks make. Debian's Abseil is not instrumented,
// so without this everything that an absl::Mutex guards, in gRPC too, would be reported as a race.
#include <sanitizer/tsan_interface.h>

#include <cstdint>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "tests/sanitizers/next.h"

namespace {

// Predicates of other threads' waits are evaluated by the thread that unlocks, inside of Unlock,
// where the mutex is not known: they are ordered before every later lock.
char evaluated;

// The mutex that this thread waits with: it evaluates its own predicate once it has it again.
thread_local void* awaited = nullptr;

class Awaits {
 public:
  explicit Awaits(void* mutex) { awaited = mutex; }
  ~Awaits() { awaited = nullptr; }
};

void Acquired(void* mutex) {
  __tsan_acquire(mutex);
  __tsan_acquire(&evaluated);
}

void Releases(void* mutex) { __tsan_release(mutex); }

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

void Mutex::Lock() {
  ATTND_NEXT(next, void (*)(Mutex*), "_ZN4absl7debian35Mutex4LockEv");
  next(this);
  Acquired(this);
}

void Mutex::Unlock() {
  ATTND_NEXT(next, void (*)(Mutex*), "_ZN4absl7debian35Mutex6UnlockEv");
  Releases(this);
  next(this);
}

bool Mutex::TryLock() {
  ATTND_NEXT(next, bool (*)(Mutex*), "_ZN4absl7debian35Mutex7TryLockEv");
  const bool locked = next(this);
  if (locked) Acquired(this);
  return locked;
}

void Mutex::ReaderLock() {
  ATTND_NEXT(next, void (*)(Mutex*), "_ZN4absl7debian35Mutex10ReaderLockEv");
  next(this);
  Acquired(this);
}

void Mutex::ReaderUnlock() {
  ATTND_NEXT(next, void (*)(Mutex*), "_ZN4absl7debian35Mutex12ReaderUnlockEv");
  Releases(this);
  next(this);
}

void Mutex::LockWhen(const Condition& condition) {
  ATTND_NEXT(next, void (*)(Mutex*, const Condition&),
             "_ZN4absl7debian35Mutex8LockWhenERKNS0_9ConditionE");
  const Awaits awaits(this);
  next(this, condition);
  Acquired(this);
}

bool Mutex::LockWhenWithDeadline(const Condition& condition, absl::Time deadline) {
  ATTND_NEXT(next, bool (*)(Mutex*, const Condition&, absl::Time),
             "_ZN4absl7debian35Mutex20LockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  const Awaits awaits(this);
  const bool met = next(this, condition, deadline);
  Acquired(this);
  return met;
}

bool Mutex::LockWhenWithTimeout(const Condition& condition, absl::Duration timeout) {
  ATTND_NEXT(next, bool (*)(Mutex*, const Condition&, absl::Duration),
             "_ZN4absl7debian35Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  const Awaits awaits(this);
  const bool met = next(this, condition, timeout);
  Acquired(this);
  return met;
}

void Mutex::Await(const Condition& condition) {
  ATTND_NEXT(next, void (*)(Mutex*, const Condition&),
             "_ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE");
  Releases(this);
  const Awaits awaits(this);
  next(this, condition);
  Acquired(this);
}

bool Mutex::AwaitWithDeadline(const Condition& condition, absl::Time deadline) {
  ATTND_NEXT(next, bool (*)(Mutex*, const Condition&, absl::Time),
             "_ZN4absl7debian35Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  Releases(this);
  const Awaits awaits(this);
  const bool met = next(this, condition, deadline);
  Acquired(this);
  return met;
}

bool Mutex::AwaitWithTimeout(const Condition& condition, absl::Duration timeout) {
  ATTND_NEXT(next, bool (*)(Mutex*, const Condition&, absl::Duration),
             "_ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  Releases(this);
  const Awaits awaits(this);
  const bool met = next(this, condition, timeout);
  Acquired(this);
  return met;
}

void CondVar::Wait(Mutex* mutex) {
  ATTND_NEXT(next, void (*)(CondVar*, Mutex*), "_ZN4absl7debian37CondVar4WaitEPNS0_5MutexE");
  Releases(mutex);
  next(this, mutex);
  Acquired(mutex);
}

bool CondVar::WaitWithDeadline(Mutex* mutex, absl::Time deadline) {
  ATTND_NEXT(next, bool (*)(CondVar*, Mutex*, absl::Time),
             "_ZN4absl7debian37CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE");
  Releases(mutex);
  const bool expired = next(this, mutex, deadline);
  Acquired(mutex);
  return expired;
}

bool CondVar::WaitWithTimeout(Mutex* mutex, absl::Duration timeout) {
  ATTND_NEXT(next, bool (*)(CondVar*, Mutex*, absl::Duration),
             "_ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE");
  Releases(mutex);
  const bool expired = next(this, mutex, timeout);
  Acquired(mutex);
  return expired;
}

bool Condition::Eval() const {
  ATTND_NEXT(next, bool (*)(const Condition*), "_ZNK4absl7debian39Condition4EvalEv");
  __tsan_acquire(&evaluated);
  if (awaited != nullptr) __tsan_acquire(awaited);
  const bool met = next(this);
  __tsan_release(&evaluated);
  return met;
}

// Who comes after the news takes no lock.
void Notification::Notify() {
  ATTND_NEXT(next, void (*)(Notification*), "_ZN4absl7debian312Notification6NotifyEv");
  __tsan_release(this);
  next(this);
}

void Notification::WaitForNotification() const {
  ATTND_NEXT(next, void (*)(const Notification*),
             "_ZNK4absl7debian312Notification19WaitForNotificationEv");
  next(this);
  __tsan_acquire(const_cast<Notification*>(this));
}

bool Notification::WaitForNotificationWithTimeout(absl::Duration timeout) const {
  ATTND_NEXT(next, bool (*)(const Notification*, absl::Duration),
             "_ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE");
  const bool notified = next(this, timeout);
  if (notified) __tsan_acquire(const_cast<Notification*>(this));
  return notified;
}

// Copies of a status share it, and count themselves in the library.
void Status::UnrefNonInlined(uintptr_t rep) {
  ATTND_NEXT(next, void (*)(uintptr_t), "_ZN4absl7debian36Status15UnrefNonInlinedEm");
  __tsan_release(reinterpret_cast<void*>(rep));
  __tsan_acquire(reinterpret_cast<void*>(rep));
  next(rep);
}

ABSL_NAMESPACE_END
}  // namespace absl
