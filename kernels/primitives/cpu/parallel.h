// Threads and scratch memory of CPU kernels.
#ifndef ATTND_KERNELS_PRIMITIVES_CPU_PARALLEL_H_
#define ATTND_KERNELS_PRIMITIVES_CPU_PARALLEL_H_

#include <cstddef>
#include <cstdint>

#include "absl/functional/function_ref.h"

namespace attnd::cpu {

// Runs body(i) for every i in [0, n) on the threads of the process; returns when all are done.
// Inline when n is 1 or `work` (rough floating-point operations in total) is too small to be worth
// a second thread. Every index is run by one thread, whole, so results never depend on the number
// of threads. A StopPoint at its start and, with threads, before each index.
void ParallelFor(int64_t n, double work, absl::FunctionRef<void(int64_t)> body);

// As long as one lives, ParallelFor on this thread runs inline: what spread its work over all
// threads at a higher level has none left to hand to the loops within.
class InlineScope {
 public:
  InlineScope();
  ~InlineScope();
  InlineScope(const InlineScope&) = delete;
  InlineScope& operator=(const InlineScope&) = delete;

 private:
  const bool before_;
};

// Limits the threads of the process (0: all cores). Called once, before the first ParallelFor.
void SetThreads(int threads);
int Threads();

// A thread's own scratch memory, kept between calls: no allocation in steady state. Nested scopes
// stack. Blocks are 64-byte aligned and uninitialised.
class Scratch {
 public:
  Scratch();
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  template <typename T>
  T* Take(int64_t count) {
    return static_cast<T*>(TakeBytes(static_cast<size_t>(count) * sizeof(T)));
  }

 private:
  void* TakeBytes(size_t bytes);
  size_t mark_block_;
  size_t mark_used_;
};

}  // namespace attnd::cpu

#endif  // ATTND_KERNELS_PRIMITIVES_CPU_PARALLEL_H_
