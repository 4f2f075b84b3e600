// Ending an evaluation that nobody waits for any more.
#ifndef ATTND_KERNELS_CORE_INTERRUPT_H_
#define ATTND_KERNELS_CORE_INTERRUPT_H_

#include "absl/status/status.h"

namespace attnd {

// Whether work under way may end. Asked often and on any thread: takes some tens of nanoseconds.
class Interrupt {
 public:
  virtual ~Interrupt() = default;
  // Once true, true for good.
  virtual bool requested() const = 0;
};

// The interrupt that this thread's work obeys; null if there is none.
const Interrupt* CurrentInterrupt();

// Makes `interrupt` (may be null) this thread's as long as the scope lasts. For those who share
// work out to other threads.
class InterruptScope {
 public:
  explicit InterruptScope(const Interrupt* interrupt);
  ~InterruptScope();
  InterruptScope(const InterruptScope&) = delete;
  InterruptScope& operator=(const InterruptScope&) = delete;

 private:
  const Interrupt* const before_;
};

// What StopPoint throws. Only Interruptible catches it.
struct Interrupted {};

// A place where work may end: within Interruptible, does not return once an interrupt is requested.
// What is under way by then is left half done, and is not to be looked at.
void StopPoint();

// The status or value of `work`, or CANCELLED if it ended at a StopPoint. Does not begin if the
// interrupt is already requested.
template <typename Work>
auto Interruptible(const Interrupt& interrupt, Work&& work) -> decltype(work()) {
  try {
    const InterruptScope scope(&interrupt);
    StopPoint();
    return work();
  } catch (const Interrupted&) {
    return absl::CancelledError("ended early: nobody waits for it");
  }
}

}  // namespace attnd

#endif  // ATTND_KERNELS_CORE_INTERRUPT_H_
