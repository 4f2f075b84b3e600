#include "kernels/core/interrupt.h"

#include <utility>

namespace attnd {
namespace {

thread_local const Interrupt* current = nullptr;

}  // namespace

const Interrupt* CurrentInterrupt() { return current; }

InterruptScope::InterruptScope(const Interrupt* interrupt)
    : before_(std::exchange(current, interrupt)) {}

InterruptScope::~InterruptScope() { current = before_; }

void StopPoint() {
  if (current != nullptr && current->requested()) throw Interrupted();
}

}  // namespace attnd
