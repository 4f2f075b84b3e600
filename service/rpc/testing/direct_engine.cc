#include "service/rpc/testing/direct_engine.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/core/random_call.h"
#include "service/rpc/testing/toy_operators.h"

namespace attnd {

DirectEngine::DirectEngine(Catalogue catalogue) {
  catalogue == Catalogue::kToys ? RegisterToyOperators(registry_) : RegisterAllOperators(registry_);
}

void DirectEngine::Evaluate(EngineCall call, Done done) {
  {
    absl::MutexLock lock(&mu_);
    if (hold_) {
      held_.push_back({std::move(call), std::move(done)});
      return;
    }
  }
  Run(std::move(call), std::move(done));
}

void DirectEngine::Run(EngineCall call, Done done) {
  const auto evaluate = [&]() -> absl::StatusOr<EngineResult> {
    {
      absl::MutexLock lock(&mu_);
      if (!failure_.ok()) return failure_;
    }
    if (call.cancel != nullptr && call.cancel->cancelled()) return absl::CancelledError("gone");
    if (absl::Now() >= call.deadline) return absl::DeadlineExceededError("too late");
    if (call.priority > 2) {
      return absl::InvalidArgumentError(
          absl::StrCat(call.request.op, ": priority: given ", call.priority, ", expected 0 to 2"));
    }
    const absl::StatusOr<const Operator*> op = registry_.Find(call.request.op);
    if (!op.ok()) return op.status();
    absl::StatusOr<Evaluation> evaluation = attnd::Evaluate(**op, *cpu_, call.request);
    if (!evaluation.ok()) return evaluation.status();
    return EngineResult{*std::move(evaluation), 1, absl::Microseconds(3)};
  };
  absl::StatusOr<EngineResult> result = evaluate();
  {
    absl::MutexLock lock(&mu_);
    ++(result.ok() ? successes_ : failures_);
  }
  done(std::move(result));
}

void DirectEngine::Compare(EngineCall call, const RandomCompare* random, CompareDone done) {
  const auto compare = [&]() -> absl::StatusOr<NumericsReport> {
    const absl::StatusOr<const Operator*> op = registry_.Find(call.request.op);
    if (!op.ok()) return op.status();
    if (random == nullptr) return attnd::Compare(**op, *cpu_, *cpu_, call.request);
    RandomOptions options;
    options.seed = random->seed;
    options.dtype = random->dtype;
    options.dims = random->dims;
    options.attributes = call.request.attributes;
    absl::StatusOr<CallRequest> drawn = RandomCall(**op, options);
    if (!drawn.ok()) return drawn.status();
    drawn->kernel = call.request.kernel;
    return attnd::Compare(**op, *cpu_, *cpu_, *drawn);
  };
  done(compare());
}

Engine::OpStatistics DirectEngine::Statistics(absl::string_view op) const {
  absl::MutexLock lock(&mu_);
  OpStatistics statistics;
  statistics.success_count = statistics.inference_count = statistics.execution_count = successes_;
  statistics.success_ns = successes_ * 1000;
  statistics.fail_count = failures_;
  statistics.launches[1] = {successes_, successes_ * 700};
  return statistics;
}

void DirectEngine::Hold(bool hold) {
  absl::MutexLock lock(&mu_);
  hold_ = hold;
}

void DirectEngine::Release(size_t index) {
  Held held;
  {
    absl::MutexLock lock(&mu_);
    held = std::move(held_.at(index));
    held_.erase(held_.begin() + static_cast<ptrdiff_t>(index));
  }
  Run(std::move(held.call), std::move(held.done));
}

size_t DirectEngine::held() const {
  absl::MutexLock lock(&mu_);
  return held_.size();
}

bool DirectEngine::AwaitHeld(size_t count) const {
  absl::MutexLock lock(&mu_);
  const auto enough = [this, count]()
                          ABSL_SHARED_LOCKS_REQUIRED(mu_) { return held_.size() >= count; };
  return mu_.AwaitWithTimeout(absl::Condition(&enough), absl::Seconds(10));
}

const EngineCall& DirectEngine::held_call(size_t index) const {
  absl::MutexLock lock(&mu_);
  return held_.at(index).call;
}

void DirectEngine::NoteDropped(Dropped what) {
  absl::MutexLock lock(&mu_);
  dropped_.push_back(what);
}

std::optional<Engine::Dropped> DirectEngine::NextDropped() {
  absl::MutexLock lock(&mu_);
  const auto any = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return !dropped_.empty(); };
  if (!mu_.AwaitWithTimeout(absl::Condition(&any), absl::Seconds(10))) return std::nullopt;
  const Dropped what = dropped_.front();
  dropped_.pop_front();
  return what;
}

void DirectEngine::FailWith(absl::Status status) {
  absl::MutexLock lock(&mu_);
  failure_ = std::move(status);
}

}  // namespace attnd
