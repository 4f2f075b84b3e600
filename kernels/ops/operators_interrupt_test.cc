// An evaluation that nobody waits for ends early, wherever it is by then, and leaves nothing
// behind.
#include <atomic>
#include <random>

#include "kernels/core/interrupt.h"
#include "kernels/ops/operators_test.h"

namespace attnd::testing {
namespace {

// Requested once it was asked so often.
class AfterSoMany final : public Interrupt {
 public:
  explicit AfterSoMany(int64_t allowed) : allowed_(allowed) {}
  bool requested() const override { return asked_.fetch_add(1) >= allowed_; }
  int64_t asked() const { return asked_; }

 private:
  const int64_t allowed_;
  mutable std::atomic<int64_t> asked_{0};
};

class InterruptTest : public OperatorTest {
 protected:
  absl::StatusOr<Evaluation> Run(const CallRequest& request, const Interrupt& interrupt) {
    absl::StatusOr<Evaluation> ran =
        Interruptible(interrupt, [&] { return Evaluate(op(), backend(), request); });
    EXPECT_TRUE(backend().Synchronize().ok());
    return ran;
  }
};

TEST_P(InterruptTest, EveryKernelEndsWhereItIsAskedToAndRunsAgain) {
  std::mt19937_64 random(BaseSeed());
  for (int i = 0; i < 3; ++i) {
    for (const std::string& kernel : kernels()) {
      CallRequest request = RandomFor(kernel, Options(i, kernel));
      if (!Takes(request, kernel)) continue;
      const AfterSoMany never(std::numeric_limits<int64_t>::max());
      const absl::StatusOr<Evaluation> whole = Run(request, never);
      ASSERT_TRUE(whole.ok()) << whole.status();
      // A fused kernel on a GPU is one piece; all others can stop on their way.
      if (backend().device() == Device::kCpu || kernel == "composed") {
        EXPECT_GE(never.asked(), 2) << kernel;
      }
      for (int cut = 0; cut < 4; ++cut) {
        const int64_t allowed =
            cut == 0 ? 0 : static_cast<int64_t>(random() % static_cast<uint64_t>(never.asked()));
        const AfterSoMany some(allowed);
        EXPECT_TRUE(absl::IsCancelled(Run(request, some).status()))
            << kernel << " after " << allowed << " of " << never.asked();
        // Whoever asked has heard it: little goes on afterwards.
        EXPECT_LE(some.asked(), allowed + 64) << kernel;
      }
      EXPECT_TRUE(SameBits(RunCall(request, backend()), *whole)) << kernel << " case " << i;
    }
  }
}

INSTANTIATE_FOR_ALL_OPERATORS(InterruptTest);

TEST(InterruptScopeTest, ReachesTheThreadsThatWorkIsSharedOutTo) {
  // As many heads as threads have little to share, and chunks in each.
  RandomOptions options;
  options.seed = BaseSeed();
  options.dims.Set("B", 1);
  options.dims.Set("T", 4096);
  options.dims.Set("H", 2);
  options.dims.Set("K", 32);
  options.dims.Set("V", 32);
  const CallRequest request = Random("gla", options);
  const AfterSoMany never(std::numeric_limits<int64_t>::max());
  ASSERT_TRUE(Interruptible(never, [&] { return Evaluate(Find("gla"), Cpu(), request); }).ok());
  EXPECT_GE(never.asked(), 2 * 4096 / 64);
}

TEST(InterruptScopeTest, ScopesNest) {
  const AfterSoMany outer(100), inner(100);
  EXPECT_EQ(CurrentInterrupt(), nullptr);
  {
    const InterruptScope first(&outer);
    {
      const InterruptScope second(&inner);
      EXPECT_EQ(CurrentInterrupt(), &inner);
    }
    EXPECT_EQ(CurrentInterrupt(), &outer);
  }
  EXPECT_EQ(CurrentInterrupt(), nullptr);
  StopPoint();  // Outside of Interruptible it is nothing.
}

}  // namespace
}  // namespace attnd::testing
