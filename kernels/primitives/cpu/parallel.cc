#include "kernels/primitives/cpu/parallel.h"

#include <sanitizer/asan_interface.h>
#include <tbb/global_control.h>
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/config.h"
#include "kernels/core/interrupt.h"

namespace attnd::cpu {
namespace {

// Waking a thread costs some microseconds: below about this much arithmetic it does not pay.
constexpr double kWorkWorthAThread = 2e5;

std::unique_ptr<tbb::global_control>& Limit() {
  static std::unique_ptr<tbb::global_control> limit;
  return limit;
}

struct Free {
  void operator()(void* p) const { std::free(p); }
};

struct Block {
  std::unique_ptr<char, Free> data;
  size_t size = 0;
};

// Under AddressSanitizer what nobody has taken is poisoned, and so is a gap behind everything that
// is taken: the kernels' tiles are checked like memory of their own.
#if defined(ABSL_HAVE_ADDRESS_SANITIZER)
constexpr size_t kGap = 64;
#else
constexpr size_t kGap = 0;
#endif

// Blocks of doubling size; a scope remembers where it began and gives back what came after.
struct ThreadScratch {
  std::vector<Block> blocks;
  size_t block = 0;
  size_t used = 0;
};

ThreadScratch& Mine() {
  thread_local ThreadScratch scratch;
  return scratch;
}

bool& Inline() {
  thread_local bool inline_here = false;
  return inline_here;
}

}  // namespace

InlineScope::InlineScope() : before_(Inline()) { Inline() = true; }
InlineScope::~InlineScope() { Inline() = before_; }

void ParallelFor(int64_t n, double work, absl::FunctionRef<void(int64_t)> body) {
  StopPoint();
  if (n <= 1 || work < kWorkWorthAThread || Inline()) {
    for (int64_t i = 0; i < n; ++i) body(i);
    return;
  }
  const Interrupt* const interrupt = CurrentInterrupt();
#if defined(ABSL_HAVE_THREAD_SANITIZER)
  // The library's own synchronisation is not instrumented: plain threads show the body's races, and
  // nothing else's. The counter orders nothing.
  std::atomic<int64_t> next = 0;
  const auto run = [&]() -> std::exception_ptr {
    const InterruptScope scope(interrupt);
    try {
      for (int64_t i = next.fetch_add(1, std::memory_order_relaxed); i < n;
           i = next.fetch_add(1, std::memory_order_relaxed)) {
        StopPoint();
        body(i);
      }
    } catch (...) {
      return std::current_exception();
    }
    return nullptr;
  };
  std::exception_ptr theirs;
  std::thread other([&] { theirs = run(); });
  const std::exception_ptr ours = run();
  other.join();
  for (const std::exception_ptr& thrown : {ours, theirs}) {
    if (thrown != nullptr) std::rethrow_exception(thrown);
  }
#else
  // Tasks of several indices, where there are many: each costs some hundred nanoseconds.
  constexpr int64_t kTasksOfAThread = 16;
  const size_t grain = static_cast<size_t>(std::max<int64_t>(1, n / (kTasksOfAThread * Threads())));
  // Isolation: a thread that waits here must not pick up another call's work, whose scratch would
  // then nest inside ours.
  tbb::this_task_arena::isolate([&] {
    tbb::parallel_for(
        tbb::blocked_range<int64_t>(0, n, grain),
        [&](const tbb::blocked_range<int64_t>& range) {
          const InterruptScope scope(interrupt);
          for (int64_t i = range.begin(); i < range.end(); ++i) {
            StopPoint();
            body(i);
          }
        },
        tbb::simple_partitioner());
  });
#endif
}

void SetThreads(int threads) {
  Limit().reset();
  if (threads > 0) {
    Limit() = std::make_unique<tbb::global_control>(tbb::global_control::max_allowed_parallelism,
                                                    static_cast<size_t>(threads));
  }
}

int Threads() {
  return static_cast<int>(
      tbb::global_control::active_value(tbb::global_control::max_allowed_parallelism));
}

Scratch::Scratch() : mark_block_(Mine().block), mark_used_(Mine().used) {}

Scratch::~Scratch() {
  ThreadScratch& scratch = Mine();
  for (size_t i = mark_block_; i < scratch.blocks.size() && i <= scratch.block; ++i) {
    const Block& block = scratch.blocks[i];
    const size_t kept = i == mark_block_ ? mark_used_ : 0;
    ASAN_POISON_MEMORY_REGION(block.data.get() + kept, block.size - kept);
  }
  scratch.block = mark_block_;
  scratch.used = mark_used_;
}

void* Scratch::TakeBytes(size_t bytes) {
  constexpr size_t kAlign = 64;
  constexpr size_t kFirstBlock = size_t{1} << 20;
  bytes = (bytes + kAlign - 1) / kAlign * kAlign;
  ThreadScratch& scratch = Mine();
  while (scratch.block < scratch.blocks.size()) {
    Block& block = scratch.blocks[scratch.block];
    if (scratch.used + bytes + kGap <= block.size) {
      void* p = block.data.get() + scratch.used;
      scratch.used += bytes + kGap;
      ASAN_UNPOISON_MEMORY_REGION(p, bytes);
      return p;
    }
    ++scratch.block;
    scratch.used = 0;
  }
  const size_t previous = scratch.blocks.empty() ? kFirstBlock / 2 : scratch.blocks.back().size;
  const size_t size = std::max(bytes + kGap, previous * 2);
  void* data = std::aligned_alloc(kAlign, size);
  if (data == nullptr)
    std::abort();  // Scratch is a few tiles a thread: nothing sensible is left to do.
  scratch.blocks.push_back(Block{std::unique_ptr<char, Free>(static_cast<char*>(data)), size});
  scratch.used = bytes + kGap;
  ASAN_POISON_MEMORY_REGION(static_cast<char*>(data) + bytes, size - bytes);
  return data;
}

}  // namespace attnd::cpu
